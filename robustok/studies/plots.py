"""The figures of a study's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..report.plots import literal, new_figure
from .measured import Findings
from .plan import TRAINED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Check = tuple[int, float]  # step, score


def rows_figure(found: Findings) -> Figure:
    """gFD of each row, a mark a seed, before post-training and after it."""
    before, after = found.values("generator.gfd"), found.values("post.gfd")
    figure, axes = new_figure(size=(5.6, 0.8 + 0.32 * len(before)))
    for number, name in enumerate(before):
        axes.plot(before[name], [number] * len(before[name]), "o", color="C0", label="before" if number == 0 else None)
        axes.plot(after[name], [number] * len(after[name]), "s", color="C1", label="after" if number == 0 else None)
    axes.set_yticks(range(len(before)), [literal(name) for name in before])
    axes.invert_yaxis()
    axes.set(xlabel="gFD")
    axes.legend(frameon=False)
    return figure


def agreement_figure(found: Findings) -> Figure:
    """gFD of each run over its pFD, and over its rFD."""
    figure, panels = new_figure(panels=2, size=(5.6, 2.8))
    runs = found.of(TRAINED)
    rows = list(dict.fromkeys(run.row.name for run in runs))
    for axes, path in zip(panels, ("tokenizer.pfd", "tokenizer.rfd"), strict=True):
        for run in runs:
            axes.scatter(run.figure(path), run.figure("generator.gfd"), s=16, color=f"C{rows.index(run.row.name) % 10}")
        axes.set(xlabel={"tokenizer.pfd": "pFD", "tokenizer.rfd": "rFD"}[path])
    panels[0].set(ylabel="gFD")
    for number, name in enumerate(rows):
        panels[0].scatter([], [], s=16, color=f"C{number % 10}", label=literal(name))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    return figure


def curve_figure(checks: Sequence[Check], kept: Check, best: Check) -> Figure:
    """The score over the steps of post-training, with what a rule keeps and the lowest."""
    figure, axes = new_figure()
    axes.plot(*zip(*checks, strict=True), marker="o", markersize=3)
    axes.plot(*kept, "s", color="C1", label="kept by the rule")
    axes.plot(*best, "*", markersize=11, color="C2", label="lowest")
    axes.set(xlabel="step", ylabel="score on validation images")
    axes.legend(frameon=False)
    return figure
