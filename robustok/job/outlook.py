"""What a run is going to do, counted in steps and parameters, and which parts of it never start or never end.

Perturbation, adversary and annealing begin at epochs that are settings: a shorter run than they were made for leaves
them out.
"""

import math
from collections.abc import Iterator

from ..config import TrainingConfig
from ..models.interfaces import is_discrete
from ..models.registry import trained_config, trained_family
from ..models.tokenizers.perturbation import kind_for
from ..ops.perturbation import uses
from ..training.schedules import step_counts
from .decisions import examples
from .outline import Outline

STALE = 0.1  # share of the first weights in the average at the end, from which on it is said


def described_stages(run: Outline) -> list[str]:
    """A line for each stage that trains: its epochs, steps and batch, and the parameters of its model."""
    c, lines = run.config, []
    for stage, (training, count) in trainings(run).items():
        per_epoch, total = step_counts(training, count)
        line = f"{training.epochs:g} epochs of {per_epoch} steps, {total} in all, each of {training.batch_size} images"
        if stage in ("tokenizer", "generator"):
            family = trained_family(c, "tokenizer" if stage == "tokenizer" else "generator")
            size = sum(parameter.numel() for parameter in getattr(run, stage).parameters())
            line += f"; {family.kind} of {size / 1e6:.1f} million parameters"
        if stage == "post":
            line += f"; once for each of {', '.join(c.pairs.modes)}"
        lines.append(f"  {stage}: {line}")
    return lines


def never(run: Outline) -> list[str]:
    """Sentences on what is set to begin, or to end, after the last step of its stage, or to happen in no batch."""
    c, found = run.config, []
    for stage, (training, count) in trainings(run).items():
        section = _SECTION[stage]
        end, (_, total) = training.epochs, step_counts(training, count)
        if training.warmup_epochs >= end:
            found.append(
                f"{section}.warmup_epochs = {training.warmup_epochs:g}, but the stage ends at {end:g}: the learning "
                "rate never reaches its peak"
            )
        starts_new = stage == "classifier" or (stage != "post" and getattr(c.start, stage) is None)
        if starts_new and training.ema**total > STALE:
            found.append(
                f"{section}.ema = {training.ema:g} over {total} steps: {training.ema**total:.0%} of the averaged "
                "weights, which later stages use, are still those of the start"
            )
        found += _OF_STAGE[stage](run, end, total) if stage in _OF_STAGE else []
    return found


def trainings(run: Outline) -> dict[str, tuple[TrainingConfig, int]]:
    """Stage that trains -> (its settings, how many examples a pass has)."""
    counts = examples(run.config, run.images)
    return {s: (getattr(run.config, name), counts[name]) for s, name in _SECTION.items() if s in run.stages}


def _of_tokenizer(run: Outline, end: float, total: int) -> Iterator[str]:
    c, losses, p = run.config, run.config.losses, run.config.perturbation
    if losses.adversarial > 0:
        yield from _span("losses.adversarial_start", losses.adversarial_start, end, "the adversarial loss never starts")
        if losses.blur_epochs > 0 and losses.adversarial_start < end < losses.adversarial_start + losses.blur_epochs:
            yield f"losses.blur_epochs = {losses.blur_epochs:g}, but the stage ends at {end:g}: the blur never ends"
        last = losses.adversarial_start + c.discriminator.warmup_epochs
        if losses.adversarial_start < end <= last:
            late = "its learning rate never reaches its peak"
            yield f"the discriminator's warm-up ends at {last:g} epochs, but the stage ends at {end:g}: {late}"
    tokenizer, batch = run.trained_tokenizer, c.tokenizer_training.batch_size
    perturbs = kind_for(tokenizer, p.kind) is not None and p.alpha * p.beta > 0
    if perturbs and math.floor(p.beta * batch) == 0:
        yield (
            f"perturbation.beta = {p.beta:g} of a batch of {batch} images is less than one image: no latent is "
            f"perturbed. Use tokenizer_training.batch_size >= {math.ceil(1 / p.beta)} or a larger beta"
        )
    if perturbs and p.anneal_end_ratio < 1:
        late = "the perturbation is never annealed, but at its full strength to the end"
        yield from _span("perturbation.anneal_start", p.anneal_start, end, late)
        if p.anneal_start < end < p.anneal_end:
            full = f"the annealing never comes to its end_ratio {p.anneal_end_ratio:g}"
            yield f"perturbation.anneal_end = {p.anneal_end:g}, but the stage ends at {end:g}: {full}"
        left = int(p.delta * p.anneal_end_ratio)
        if uses(kind_for(tokenizer, p.kind), "delta") and left < 2 and p.anneal_start < end:
            yield (
                f"perturbation.delta = {p.delta} is annealed to {max(1, left)} by anneal_end_ratio "
                f"{p.anneal_end_ratio:g}: the nearest code alone is left to draw, and no latent is perturbed"
            )
    if is_discrete(tokenizer):
        if c.codebook.continuous_steps >= total:
            yield (
                f"codebook.continuous_steps = {c.codebook.continuous_steps}, but the stage has {total} steps: the "
                "codebook is never set, and nothing is quantised in training"
            )
    elif (until := getattr(tokenizer.config, "hidden_until", None)) is not None:
        yield from _span("maetok.hidden_until", until, end, "patches are hidden to the end")


def _of_generator(run: Outline, end: float, total: int) -> Iterator[str]:
    c, order = run.config, run.config.order
    family = trained_family(c, "generator")
    if "order" in family.sections:
        yield from _span("order.anneal_start", order.anneal_start, end, "every order stays random to the end")
        if order.anneal_start < end < order.anneal_end:
            late = "some orders are random to the end, and sampling knows raster order alone"
            yield f"order.anneal_end = {order.anneal_end:g}, but the stage ends at {end:g}: {late}"
    scale = getattr(c, family.sampling).guidance_scale
    if scale != 1 and not c.start.generator and trained_config(c, "generator").class_dropout == 0:
        yield (
            f"{family.sampling}.guidance_scale = {scale:g}, but {family.section}.class_dropout is 0: guidance needs a "
            "generator that learned to do without a class"
        )


def _of_post(run: Outline, end: float, total: int) -> Iterator[str]:
    late = "nothing is scored before the last step, so nothing can stop it early"
    every = run.config.stopping.every_epochs
    if every >= end:
        yield f"stopping.every_epochs = {every:g}, but the stage ends at {end:g}: {late}"


def _span(name: str, start: float, end: float, what: str) -> Iterator[str]:
    """The sentence for what begins at an epoch that the stage does not reach."""
    if start >= end:
        yield f"{name} = {start:g}, but the stage ends at {end:g}: {what}"


_SECTION = {
    "classifier": "classifier",
    "tokenizer": "tokenizer_training",
    "generator": "generator_training",
    "post": "post_training",
}
_OF_STAGE = {"tokenizer": _of_tokenizer, "generator": _of_generator, "post": _of_post}
