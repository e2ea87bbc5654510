"""What the settings of a run leave open (None), decided from its data and device, each with the reason.

Lengths and shares are those of the demo on the digits, which were tried out; on the digits, what is decided is what
configs/digits.yaml says. A GPU takes ten times the steps, and larger batches. A run that goes on keeps what was decided
when it began: its config.yaml holds it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..core.paths import given_path
from ..data.images import Images
from ..data.transforms import VIEWS
from ..models.interfaces import is_discrete
from ..models.registry import trained_config, trained_family
from ..models.starting import tokenizer_shape, without_values
from ..presets import read_settings
from ..training.schedules import step_counts

LEAST_STEPS = 4  # an epoch
MOST_IMAGES = {"cpu": 64, "cuda": 256}  # a step
PATIENCE = {"cpu": 1, "cuda": 10}  # how many times the steps of the demo are taken
LEAST_EPOCHS, MOST_EPOCHS = {"cpu": 1, "cuda": 10}, 400
LATENTS_PER_CODE, LEAST_CODES, MOST_CODES = 64, 256, 4096
MOST_SAMPLES, LEAST_SAMPLES = 250, 500  # of a generator: at a time, and in all
NAMES = {"cpu": "a CPU", "cuda": "a GPU"}


@dataclass(frozen=True)
class Length:
    """How long a stage is trained, on a CPU, and its schedule."""

    steps: int
    warmup: float  # share of its epochs
    window: float  # share of its steps that the averaged weights reach back


LENGTHS = {
    "classifier": Length(240, 1 / 12, 1 / 24),
    "tokenizer_training": Length(600, 1 / 15, 1 / 12),
    "generator_training": Length(800, 1 / 8, 1 / 4),
    "post_training": Length(100, 1 / 5, 1),
}
OPEN = (  # the settings that may be left open; elsewhere None has a meaning of its own
    *("data.val", "data.test", "tokenizer.codebook_size", "codebook.continuous_steps"),
    *(f"{name}.{setting}" for name in LENGTHS for setting in ("batch_size", "epochs", "warmup_epochs", "ema")),
    *(f"{name}.save_every" for name in LENGTHS),
    *("perturbation.delta", "perturbation.anneal_start", "perturbation.anneal_end", "losses.adversarial_start"),
    *("discriminator.warmup_epochs", "order.anneal_start", "order.anneal_end", "stopping.every_epochs"),
    *("post_discriminator.warmup_epochs", "discriminator_warmup.epochs", "discriminator_warmup.warmup_epochs"),
    *("evaluation.samples_per_class", "sampling.batch_size", "flow_sampling.batch_size"),
)


@dataclass(frozen=True)
class Decision:
    """A setting that was left open, what it became, and why."""

    name: str
    value: Any
    reason: str


class Draft:
    """Settings some of which are left open, and what was decided so far."""

    def __init__(self, run: RunConfig) -> None:
        self.run = run
        self.made: list[Decision] = []

    def decide(self, reason: str, **values: Any) -> None:
        """Gives settings, SECTION__NAME, these values where they are open."""
        for key, value in values.items():
            section, name = key.split("__")
            settings = getattr(self.run, section)
            if getattr(settings, name) is None:
                self.run = replace(self.run, **{section: replace(settings, **{name: value})})
                self.made.append(Decision(f"{section}.{name}", value, reason))


def as_begun(c: RunConfig) -> tuple[RunConfig, Path | None]:
    """The settings with those left open as the run's config.yaml has them, and that file; None where there is none."""
    file = given_path(c.runs) / c.name / "config.yaml"
    if c.resume == "never" or not file.is_file():
        return c, None
    stored, draft = read_settings(file), Draft(c)
    for section, name in (setting.split(".") for setting in OPEN):
        value = (stored.get(section) or {}).get(name)
        if value is not None:
            draft.decide("", **{f"{section}__{name}": value})
    return draft.run, file if draft.made else None


def decided(c: RunConfig, images: Images, world: int, device: str) -> tuple[RunConfig, list[Decision]]:
    """The settings with nothing left open, and what was decided. device: "cpu" or "cuda"; world: processes."""
    draft = Draft(c)
    count, (val, test) = len(images.all), images.asked
    draft.decide(f"a tenth of {count} images, 2 to 2000", data__val=val)
    draft.decide(f"three twentieths of {count} images, 2 to 10,000", data__test=test)
    _codes(draft, images)
    for name in LENGTHS:
        _length(draft, name, images, world, device)
    _tokenizer_schedule(draft, images)
    _later_schedules(draft, images)
    _evaluation(draft, images)
    return draft.run, draft.made


def examples(c: RunConfig, images: Images) -> dict[str, int]:
    """How many examples a pass over the data has, for each stage that trains, by its section."""
    count = len(images.train)
    return dict.fromkeys(LENGTHS, count) | {
        "generator_training": count * VIEWS[c.data.token_views],
        "post_training": count * c.pairs.per_image,
    }


def lines(made: Iterable[Decision]) -> list[str]:
    """A line for each reason, with all that was decided for it."""
    by_reason: dict[str, list[str]] = {}
    for decision in made:
        value = f"{decision.value:g}" if isinstance(decision.value, float) else decision.value
        by_reason.setdefault(decision.reason, []).append(f"{decision.name} {value}")
    return [f"  {', '.join(settings)}: {reason}" for reason, settings in by_reason.items()]


def _codes(draft: Draft, images: Images) -> None:
    """Codes of the tokenizer: as many as the data can feed, and the neighbours of each in the published proportion."""
    c = draft.run
    family = trained_family(c, "tokenizer")
    if family.section == "tokenizer" and c.tokenizer.codebook_size is None:
        if c.start.tokenizer:
            codes = tokenizer_shape(c).codebook_size
            draft.decide("of the tokenizer that the run starts from", tokenizer__codebook_size=codes)
        else:
            latents = len(images.train) * without_values(replace(c.tokenizer, codebook_size=1)).num_latents
            codes = _power_of_two(min(MOST_CODES, max(LEAST_CODES, latents // LATENTS_PER_CODE)))
            why = f"{latents} latents of the training images, at least {LATENTS_PER_CODE} a code, {LEAST_CODES} to "
            draft.decide(f"{why}{MOST_CODES} codes", tokenizer__codebook_size=codes)
    codes = getattr(tokenizer_shape(draft.run), "codebook_size", None) or 1
    least = math.ceil(2 / (c.perturbation.anneal_end_ratio or 1))
    delta = min(codes, max(least, round(codes * 100 / 4096)))
    why = f"of {codes} codes, as 100 of 4096, but at least {least}, so that annealing leaves 2"
    draft.decide(why, perturbation__delta=delta)


def _length(draft: Draft, name: str, images: Images, world: int, device: str) -> None:
    """Batch, epochs, warm-up, average and checkpoints of one stage that trains."""
    length, count = LENGTHS[name], examples(draft.run, images)[name]
    training = getattr(draft.run, name)
    least, most, why = 1, MOST_IMAGES[device], ""
    if name == "tokenizer_training" and draft.run.perturbation.beta > 0:
        least = min(count, math.ceil(1 / draft.run.perturbation.beta))
    size = _power_of_two(max(1, min(most, count // LEAST_STEPS)))
    if size < least:
        size, why = least, f", and perturbation.beta {draft.run.perturbation.beta:g} of them at least one"
    parts = world * training.accumulate
    if size % parts:
        size, why = max(parts, size // parts * parts), f", in {parts} equal parts"
    limits = f"at least {LEAST_STEPS} steps an epoch and at most {most} images on {NAMES[device]}"
    draft.decide(f"{count} training images, {limits}{why}", **{f"{name}__batch_size": size})

    steps, per_epoch = length.steps * PATIENCE[device], max(1, count // getattr(draft.run, name).batch_size)
    wanted = math.ceil(steps / per_epoch)
    epochs = min(MOST_EPOCHS, max(LEAST_EPOCHS[device], wanted))
    why = f"{steps} steps or more on {NAMES[device]}, {per_epoch} an epoch"
    why += "" if epochs == wanted else f", but {LEAST_EPOCHS[device]} to {MOST_EPOCHS} epochs"
    draft.decide(why, **{f"{name}__epochs": float(epochs)})

    epochs, (_, total) = getattr(draft.run, name).epochs, step_counts(getattr(draft.run, name), count)
    draft.decide(_share_of(name, epochs), **{f"{name}__warmup_epochs": _short(epochs * length.warmup)})
    average = min(0.9999, max(0.0, _short(1 - 1 / max(1.0, length.window * total))))
    every = min(5000, max(100, total // 10))
    draft.decide(f"{total} steps", **{f"{name}__ema": average, f"{name}__save_every": every})


def _tokenizer_schedule(draft: Draft, images: Images) -> None:
    """When perturbation, adversary and codebook begin."""
    c = draft.run
    epochs, (_, total) = c.tokenizer_training.epochs, step_counts(c.tokenizer_training, len(images.train))
    _span(draft, "perturbation", "the published shares (40 and 120 of 200) of the tokenizer's epochs", epochs, 0.2, 0.6)
    shares = {"losses__adversarial_start": _short(epochs * 0.8)}
    draft.decide(_share_of("tokenizer_training", epochs), **shares)
    left = max(0.0, epochs - draft.run.losses.adversarial_start)
    draft.decide(f"a third of the adversary's {left:g} epochs", discriminator__warmup_epochs=_short(left / 3))
    if c.codebook.continuous_steps is None:
        steps, why = _continuous_steps(draft.run, images, total)
        draft.decide(why, codebook__continuous_steps=steps)


def _continuous_steps(c: RunConfig, images: Images, total: int) -> tuple[int, str]:
    """Steps before k-means sets the codebook, and why so many."""
    if trained_family(c, "tokenizer").section is None or c.start.tokenizer or c.frozen.dinov2:
        return 0, "the tokenizer starts from trained weights"
    tokenizer = without_values(trained_config(c, "tokenizer"))
    if not is_discrete(tokenizer) or tokenizer.codebook.ndim > 2:
        return 0, "the tokenizer has no codebook that k-means could set"
    if len(tokenizer.codebook) > len(images.train) * tokenizer.num_latents:
        return 0, "the training images have fewer latents than there are codes"
    return min(1000, total // 6), f"a sixth of the tokenizer's {total} steps, 1000 at the most"


def _later_schedules(draft: Draft, images: Images) -> None:
    """Annealing of the generator's orders, and how often post-training looks whether to stop."""
    c = draft.run
    epochs = c.generator_training.epochs
    _span(draft, "order", "the published shares (200 and 300 of 400) of the generator's epochs", epochs, 0.5, 0.75)
    epochs = c.post_training.epochs
    shares = {"stopping__every_epochs": _short(epochs / 5), "post_discriminator__warmup_epochs": _short(epochs * 0.4)}
    draft.decide(_share_of("post_training", epochs), **shares)
    per_epoch, _ = step_counts(c.post_training, len(images.train))
    warm_up = max(1.0, _short(100 / max(1, per_epoch)))
    draft.decide(f"at least 100 steps, {per_epoch} an epoch", discriminator_warmup__epochs=warm_up)
    share = _short(draft.run.discriminator_warmup.epochs / 10)
    draft.decide("a tenth of discriminator_warmup.epochs", discriminator_warmup__warmup_epochs=share)


def _evaluation(draft: Draft, images: Images) -> None:
    """How many images a generator makes to be judged, and at a time."""
    enough = max(LEAST_SAMPLES, len(images.test))
    per_class = max(2, math.ceil(enough / images.num_classes))
    why = f"{images.num_classes} classes, {enough} images or more in all"
    draft.decide(why, evaluation__samples_per_class=per_class)
    size = min(MOST_SAMPLES, draft.run.evaluation.samples_per_class * images.num_classes)
    draft.decide(f"{MOST_SAMPLES} images at the most", sampling__batch_size=size, flow_sampling__batch_size=size)


def _span(draft: Draft, section: str, why: str, epochs: float, first: float, last: float) -> None:
    """An annealing from one share of the epochs to another; an end that is given bounds the other."""
    given = getattr(draft.run, section)
    start, end = _short(epochs * first), _short(epochs * last)
    start = start if given.anneal_end is None else min(start, given.anneal_end)
    end = end if given.anneal_start is None else max(end, given.anneal_start)
    draft.decide(why, **{f"{section}__anneal_start": start, f"{section}__anneal_end": end})


def _share_of(section: str, epochs: float) -> str:
    return f"as in the demo, a share of {section}.epochs {epochs:g}"


def _power_of_two(number: int) -> int:
    """The largest power of two that is no larger."""
    return 1 << (number.bit_length() - 1)


def _short(number: float) -> float:
    return round(number, 4)
