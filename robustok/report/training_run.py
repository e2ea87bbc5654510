"""report.html of a training run: what was run and what came out of it, in figures, tables and pictures."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config import RunConfig
from ..core.sizes import say_size
from ..models.registry import trained_config, trained_family
from .decoders import compared_rows, side_by_side
from .page import Page
from .plots import settings_figure
from .robustness import shown_robustness

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURED = 12  # test images whose reconstructions are shown
NOT_DRAWN = ("stage", "step", "epoch", "lr", "seconds", "images_per_second")  # of a record of the log


@dataclass
class FinishedRun:
    """A run and what came out of it."""

    config: RunConfig
    class_names: Sequence[str]
    post_stages: Sequence[str]  # one post-trained decoder each
    metrics: dict  # as in metrics.json
    pictures: dict[str, Tensor]  # uint8 (N, 3, H, W): of the tokenizer, the generator and each post stage
    log: list[dict]  # records of log.jsonl


def write_report(path: Path, run: FinishedRun) -> None:
    """Writes the page."""
    metrics, distance = run.metrics, run.metrics["distance"]
    page = Page(f"RobusTok: {run.config.name}")
    page.headlines(_headlines(metrics))
    page.note("\n".join(verdicts(metrics)))
    page.text(_what_was_run(run))
    page.heading("Summary").table(summary_rows(metrics), ("", "value", "what it is"), _distance_caption(metrics))
    _tokenizer_section(page, metrics, run.pictures)
    _generator_section(page, run)
    _decoders_section(page, run)
    page.heading("Loss curves")
    for stage in ("tokenizer", "generator", *run.post_stages):
        page.figure(_curves(run.log, stage), f"{stage}: values of the log against optimiser steps")
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


def summary_rows(metrics: dict) -> list[tuple[str, object, str]]:
    """The table of the terminal and of the report: (name, value, meaning)."""
    t, distance = metrics["tokenizer"], metrics["distance"]
    rows: list[tuple[str, object, str]] = [("PSNR", f"{t['psnr']:.2f} dB", "reconstruction of held-out images")]
    if "codebook_usage" in t:
        rows.append(("codebook usage", f"{t['codebook_usage']:.1%}", "codes used by the training images' tokens"))
    rows.append(("rFD", t["rfd"], f"{distance} of reconstructions"))
    if found := shown_robustness(t):
        key, robustness = found
        rows.append((robustness.name, t[key], f"{distance} of {robustness.of}"))
    for name, title in _decoders(metrics):
        values = metrics[name]
        rows.append((f"gFD, {title}", values["gfd"], f"{distance} of generated images"))
        rows.append(
            (
                f"class agreement, {title}",
                f"{values['class_agreement']:.1%}",
                "generated images read as the class asked for",
            )
        )
    rows.append(
        ("training images", metrics["real_fd"], f"{distance} of the training images, which the classifier knows")
    )
    return rows


def _headlines(metrics: dict) -> list[tuple[str, str, str]]:
    """What a reader wants to know first, each with what it means."""
    t, distance = metrics["tokenizer"], metrics["distance"]
    cards = [("rFD", f"{t['rfd']:.4g}", f"{distance} of clean reconstructions; lower is better")]
    if found := shown_robustness(t):
        key, shown = found
        cards.append((shown.name, f"{t[key]:.4g}", f"{distance} of {shown.of}; close to rFD is robust"))
    for name, title in _decoders(metrics):
        low, high = metrics[name]["gfd_interval"]
        meaning = f"{low:.4g} to {high:.4g} (95 % over the samples drawn); of generated images, lower is better"
        cards.append((f"gFD, {title}", f"{metrics[name]['gfd']:.4g}", meaning))
    cards.append(("PSNR", f"{t['psnr']:.2f} dB", "of held-out images' reconstructions; higher is better"))
    return cards


def verdicts(metrics: dict) -> list[str]:
    """What the figures say about post-training, in sentences: better, worse or neither, by how much.

    Before that, what a reader must know of the figures; nothing else where they mean nothing.
    """
    before, sentences = metrics["generator"]["gfd"], list(metrics["notes"])
    if metrics["classifier"]["skill"] == "none":
        return sentences
    for name, title in _decoders(metrics)[1:]:
        after = metrics[name]["gfd"]
        if metrics[name]["best_step"] == 0:
            sentences.append(
                f"{title.capitalize()}: no step beat the start on the validation images: "
                f"the decoder stays as it was, gFD {before:.4g}."
            )
            continue
        low, high = metrics[name]["gfd_change_interval"]
        verdict = "no difference found in" if low <= 0 <= high else "lowers" if after < before else "raises"
        sentences.append(
            f"{title.capitalize()}: {verdict} gFD on this data, {before:.4g} -> {after:.4g} "
            f"({(after - before) / before:+.1%}; the change is from {low:+.2g} to {high:+.2g}, 95 % over the samples)."
        )
    return sentences


def _decoders(metrics: dict) -> list[tuple[str, str]]:
    """(key in metrics, how the page calls it), the main-trained decoder first."""
    modes = metrics["modes"]
    posts = [("post" if i == 0 else f"post_{mode}", f"post-trained on {mode} pairs") for i, mode in enumerate(modes)]
    return [("generator", "before post-training"), *posts]


def _tokenizer_section(page: Page, metrics: dict, pictures: dict[str, Tensor]) -> None:
    t, found = metrics["tokenizer"], shown_robustness(metrics["tokenizer"])
    page.heading("Reconstruction and perturbed reconstruction")
    shown, caption = (
        ["originals", "reconstructed"],
        "Held-out images; of each, left to right: original | reconstruction",
    )
    if found is not None:
        key, robustness = found
        shown.append("perturbed")
        caption += f" | reconstruction with {robustness.pictured(t[f'{key}_table'])}"
    images = side_by_side([pictures[name] for name in shown]).split(len(shown))[:PICTURED]
    tiles = [(f"test image {number}: {', '.join(shown)}", group) for number, group in enumerate(images, 1)]
    page.tiles(tiles, f"{caption}.", columns=len(shown))
    if found is None:
        return
    table = t[f"{key}_table"]
    page.heading(f"{robustness.name}, setting by setting").table(
        *robustness.cells(table),
        f"{metrics['distance']} of {robustness.of.partition(',')[0]} of {metrics['images']['test']} test images; "
        f"their mean, {robustness.name}, is {t[key]:.4g} (clean: {t['rfd']:.4g}).",
    )
    if key == "pfd":
        curves = settings_figure({(alpha, delta): value for alpha, delta, value in table}, metrics["distance"])
        page.figure(curves, f"{metrics['distance']} of perturbed reconstructions over alpha, a curve for each delta.")


def _generator_section(page: Page, run: FinishedRun) -> None:
    page.heading("Generated images, class by class")
    rows = min(len(run.class_names), 10)
    for name in ("generator", *run.post_stages):
        title = "Before post-training" if name == "generator" else f"After post-training ({name})"
        classes = run.pictures[name].chunk(rows)
        tiles = [(f"{title}: {label}", images) for label, images in zip(run.class_names, classes, strict=False)]
        page.tiles(tiles, f"{title}: the same tokens, classes {', '.join(run.class_names[:rows])}", columns=4)


def _decoders_section(page: Page, run: FinishedRun) -> None:
    """Decoder by decoder: the figures, and some of the same samples next to each other."""
    metrics, folders = run.metrics, ("generator", *run.post_stages)
    robust = shown_robustness(metrics["tokenizer"])
    names = {"rfd": "rFD"} | ({robust[0]: robust[1].name} if robust else {})
    names |= {"gfd": "gFD", "class_agreement": "class agreement"}
    titles = [title for _, title in _decoders(metrics)]
    page.heading("The same latents through each decoder").table(
        compared_rows([metrics[key] for key, _ in _decoders(metrics)], names),
        ("", *titles),
        "Distances are better when lower, class agreement when higher.",
    )
    rows = min(len(run.class_names), 10)
    columns = len(run.pictures["generator"]) // rows
    few = [row * columns + i for row in range(rows) for i in range(min(2, columns))]
    groups = side_by_side([run.pictures[folder][few] for folder in folders]).split(len(folders))
    labels = [run.class_names[sample // columns] for sample in few]
    page.tiles(
        zip(labels, groups, strict=True),
        f"The same samples; of each, left to right: {' | '.join(titles)}.",
        columns=len(folders),
    )


def _curves(log: list[dict], stage: str) -> Figure:
    """Everything that the stage logged: losses, and what else its family and its losses name."""
    from matplotlib.figure import Figure

    records = [record for record in log if record["stage"] == stage and "event" not in record]
    drawn = [name for name in dict.fromkeys(chain(*records)) if name not in NOT_DRAWN]
    figure = Figure(figsize=(7, 1.9 * -(-len(drawn) // 2) + 0.3), layout="constrained")
    for i, name in enumerate(drawn):
        axes = figure.add_subplot(-(-len(drawn) // 2), 2, i + 1)
        axes.plot(
            *zip(*[(record["step"], record[name]) for record in records if name in record], strict=True), linewidth=1.2
        )
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    return figure


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
        "Intervals are of the jackknife over tenths of the samples, with the test images and the models as they are: "
        "another training run may differ by more."
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
