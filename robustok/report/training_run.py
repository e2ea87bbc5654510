"""report.html of a training run: what was run and what came out of it, in figures, tables and pictures."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import RunConfig
from ..core.sizes import say_size
from ..evaluation.explaining import Usage
from ..evaluation.robustness import Wrong
from ..models.registry import trained_config, trained_family
from .curves import curves, stages_figure
from .decoders import SAME_IMAGES, compared_rows, side_by_side
from .judgement import distance_names, signal_and_noise
from .page import Page
from .plots import settings_figure, usage_figure
from .robustness import ShownRobustness, multiples, shown_robustness
from .run_figures import decoders, headlines, summary_rows, verdicts
from .wording import usage_in_words, with_interval

PICTURED = 12  # test images whose reconstructions are shown


@dataclass
class FinishedRun:
    """A run and what came out of it."""

    config: RunConfig
    class_names: Sequence[str]
    post_stages: Sequence[str]  # one post-trained decoder each
    metrics: dict  # as in metrics.json
    pictures: dict[str, Tensor]  # uint8 (N, 3, H, W): of the tokenizer, the generator and each post stage
    drawn: Tensor  # int64 (N,): the class of each picture of the generator, which each post stage's have too
    perturbed: dict[Wrong, Tensor]  # some originals reconstructed from wrong latents, clean ones first; {}: not defined
    usage: Usage | None  # of the codes, by the training images; None where there are none
    log: list[dict]  # records of log.jsonl


def write_report(path: Path, run: FinishedRun) -> None:
    """Writes the page."""
    metrics, distance = run.metrics, run.metrics["distance"]
    page = Page(f"RobusTok: {run.config.name}")
    page.headlines(headlines(metrics))
    page.note("\n".join(verdicts(metrics)))
    page.text(_what_was_run(run))
    page.heading("Summary").table(summary_rows(metrics), ("", "value", "what it is"), _distance_caption(metrics))
    _tokenizer_section(page, run)
    _generator_section(page, run)
    _decoders_section(page, run)
    _noise_section(page, run)
    _curves_section(page, run)
    seconds = [(stage, value) for stage, value in metrics["seconds"].items()]
    page.heading("Time and memory").table(
        [*seconds, ("total", sum(metrics["seconds"].values()))],
        ("stage", "seconds"),
        f"Most memory held by the evaluating process: {metrics['peak_memory_bytes'] / 2**30:.2f} GiB. {_machine()}",
    )
    page.heading("Settings").table(
        _settings(run.config), ("setting", "value"), f"{distance} and all settings of this run"
    )
    page.save(path)


def _tokenizer_section(page: Page, run: FinishedRun) -> None:
    metrics, pictures = run.metrics, run.pictures
    found = shown_robustness(metrics["tokenizer"])
    page.heading("Reconstruction and perturbed reconstruction")
    shown, caption = (
        ["originals", "reconstructed"],
        "Held-out images; of each, left to right: original | reconstruction",
    )
    if found is not None:
        key, robustness = found
        shown.append("perturbed")
        caption += f" | reconstruction with {robustness.pictured(metrics['tokenizer'][f'{key}_table'])}"
    images = side_by_side([pictures[name] for name in shown]).split(len(shown))[:PICTURED]
    tiles = [(f"test image {number}: {', '.join(shown)}", group) for number, group in enumerate(images, 1)]
    page.tiles(tiles, f"{caption}.", columns=len(shown))
    if found is not None:
        _robustness_section(page, run, *found)
    if run.usage is not None:
        _usage_section(page, run.usage)


def _robustness_section(page: Page, run: FinishedRun, key: str, robustness: ShownRobustness) -> None:
    """Some images under every setting of wrong latents, and the distance of each."""
    t, distance, several = run.metrics["tokenizer"], run.metrics["distance"], next(iter(run.perturbed.values()))
    shown = [multiples(run.pictures["originals"], run.perturbed, number) for number in range(len(several))]
    page.heading("From right to wrong").multiples(
        [(f"test image {number}", rows) for number, (rows, _) in enumerate(shown, 1)],
        shown[0][1],
        f"The same images reconstructed from worse and worse latents: downwards {robustness.wrong}. The second row is "
        "the clean reconstruction. A robust decoder changes little from there to the bottom.",
    )
    table = t[f"{key}_table"]
    page.heading(f"{robustness.name}, setting by setting").table(
        *robustness.cells(table),
        f"{distance} of {robustness.of.partition(',')[0]} of {run.metrics['images']['test']} test images; "
        f"their mean, {robustness.name}, is {with_interval(t, key)} (clean: {with_interval(t, 'rfd')}).",
    )
    if key == "pfd":
        curves = settings_figure({(alpha, delta): value for alpha, delta, value in table}, distance)
        page.figure(curves, f"{distance} of perturbed reconstructions over alpha, a curve for each delta.")


def _usage_section(page: Page, usage: Usage) -> None:
    page.heading("Usage of the codebook").figure(
        usage_figure(usage),
        "The share of the training images' tokens that each code has, most frequent first. " + usage_in_words(usage),
    )


def _curves_section(page: Page, run: FinishedRun) -> None:
    if noticed := [f"{line['stage']}, step {line['step']}: {line['text']}" for line in run.log if "event" in line]:
        page.heading("What was noticed").note("\n".join(noticed))
    page.heading("Training over time")
    if (figure := stages_figure(run.log, run.metrics["seconds"])) is not None:
        page.figure(
            figure,
            "The main loss of every stage over the time of training, logarithmic. Losses of different stages are "
            "different things: compare shapes, not heights. Stages without a curve train nothing.",
        )
    values = [record for record in run.log if "event" not in record]
    for stage in dict.fromkeys(record["stage"] for record in values):
        page.figures(curves(values, stage), f"{stage}: values of the log against optimiser steps")


def _generator_section(page: Page, run: FinishedRun) -> None:
    page.heading("Generated images, class by class")
    shown = [(run.class_names[number], run.drawn == number) for number in run.drawn.unique()]
    for name in ("generator", *run.post_stages):
        title = "Before post-training" if name == "generator" else f"After post-training ({name})"
        tiles = [(f"{title}: {label}", run.pictures[name][these]) for label, these in shown]
        page.tiles(tiles, f"{title}: the same tokens, classes {', '.join(label for label, _ in shown)}", columns=4)


def _decoders_section(page: Page, run: FinishedRun) -> None:
    """Decoder by decoder: the figures, and some of the same samples next to each other."""
    metrics, folders = run.metrics, ("generator", *run.post_stages)
    records = [(title, metrics[key]) for key, title in decoders(metrics)]
    called = distance_names(metrics["generator"]) | {"class_agreement": "class agreement"}
    names = {key: name for key, name in called.items() if all(key in record for _, record in records)}
    page.heading("The same latents through each decoder").table(
        compared_rows([record for _, record in records], names),
        ("", *(title for title, _ in records)),
        f"Distances are better when lower, class agreement when higher. {SAME_IMAGES}",
    )
    few = torch.cat([torch.where(run.drawn == number)[0][:2] for number in run.drawn.unique()])
    groups = side_by_side([run.pictures[folder][few] for folder in folders]).split(len(folders))
    labels = [run.class_names[number] for number in run.drawn[few]]
    page.tiles(
        zip(labels, groups, strict=True),
        f"The same samples; of each, left to right: {' | '.join(title for title, _ in records)}.",
        columns=len(folders),
    )


def _noise_section(page: Page, run: FinishedRun) -> None:
    """What these images could have shown, beside what was found."""
    metrics = run.metrics
    rows = signal_and_noise([(title, metrics[key]) for key, title in decoders(metrics)])
    if not rows:
        return
    counts, real = metrics["images"], ""
    if "real_fd_inf" in metrics:
        real = (
            f" The training images are {with_interval(metrics, 'real_fd_inf')} from the test images by FD_inf, and "
            f"{metrics['real_fd']:.4g} by FD: what few images add to a Fréchet distance is no difference."
        )
    page.heading("What separates signal from noise").text(
        f"Other test images or other samples would have given other figures. Both decoders are therefore measured on "
        f"the same {counts['test']} test images and {counts['samples']} samples, and on the same redrawings of them: "
        "half of the 95 % interval of their difference is the smallest change that so many images can show."
        f"{real}"
    ).table(
        rows,
        ("", "change found", "smallest that could show", "verdict"),
        "Decoders are judged by FD_inf and KD of generated images, where they are there. The interval of gFD has the "
        "test images fixed and holds for those alone.",
    )


def _what_was_run(run: FinishedRun) -> str:
    c, counts = run.config, run.metrics["images"]
    size = say_size(run.pictures["originals"].shape[2:])
    models = []
    for role in ("tokenizer", "generator"):
        family, start = trained_family(c, role), getattr(c.start, role)
        models.append(f"{role.capitalize()} ({family.kind}): {start or family.about(trained_config(c, role), c)}")
    source = c.data.root or "scikit-learn's handwritten digits"
    return (
        f"{source}, {size} pixels, {len(run.class_names)} classes: "
        f"{counts['train']} images to train on, {counts['val']} for validation (early stopping), "
        f"{counts['test']} to test.\n"
        f"{'; '.join(models)}. Post-training on pairs with sigma {c.pairs.sigma}. Seed {c.seed}."
    )


def _distance_caption(metrics: dict) -> str:
    return (
        f"{metrics['distance']} is the Fréchet distance of the features of a small classifier trained on this data "
        f"({metrics['classifier']['accuracy']:.1%} right on the test images). It is not FID. "
        f"Measured on {metrics['images']['test']} test images and {metrics['images']['samples']} samples. "
        "± is half of the 95 % interval, with the models as they are: another training run may differ by more. It is "
        "of the jackknife over tenths of the test images, for gFD of the samples; for FD_inf and KD of the bootstrap."
    )


def _settings(config: RunConfig) -> list[tuple[str, str]]:
    """(dotted name, value) of every setting."""
    rows = []
    for name in (f.name for f in fields(config)):
        value = getattr(config, name)
        items = asdict(value).items() if is_dataclass(value) else [("", value)]
        rows += [(f"{name}.{key}".rstrip("."), str(item)) for key, item in items]
    return rows


def _machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"{platform.machine()}, {device}, Python {platform.python_version()}, torch {torch.__version__}."
