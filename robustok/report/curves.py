"""Curves of what a run logged while it trained: all stages over time, and each stage by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from .plots import literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOT_DRAWN = ("stage", "step", "epoch", "lr", "seconds", "images_per_second", "mfu")  # of a record of the log
MAIN = ("loss", "reconstruction")  # what a stage's curve over time shows: the first of them that it logs
UNITS = ((2 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))  # from so many seconds on

Log = Sequence[Mapping]  # records of log.jsonl


def stages_figure(log: Log, seconds: Mapping[str, float]) -> Figure | None:
    """The main loss of every stage over the seconds of training, on one axis, each stage shaded; None without any.

    seconds: how long each stage took, in their order. What was logged without a time is left out.
    """
    from matplotlib.figure import Figure

    stages = {stage: took for stage, took in seconds.items() if took > 0 and stage != "evaluation"}
    total = sum(stages.values())
    _, unit, unit_name = next(entry for entry in UNITS if total >= entry[0])
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes, start, drawn = figure.subplots(), 0.0, False
    for number, (stage, took) in enumerate(stages.items()):
        colour = f"C{number % 10}"
        timed = [record for record in log if record["stage"] == stage and "seconds" in record]
        name = next((name for name in MAIN if any(name in record for record in timed)), None)
        axes.axvspan(start / unit, (start + took) / unit, color=colour, alpha=0.12, linewidth=0)
        points = [((start + r["seconds"]) / unit, r[name]) for r in timed if name in r]
        if points:
            drawn = True
            axes.plot(*zip(*points, strict=True), color=colour, marker="." if len(points) < 3 else "")
        label = f"{stage}: {name}" if points else stage
        axes.fill_between([], [], color=colour, alpha=0.5, label=literal(label))
        start += took
    axes.set(xlabel=f"{unit_name} of training", xlim=(0, total / unit or 1), yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure if drawn else None


def curves(log: Log, stage: str) -> list[tuple[str, Figure]]:
    """Everything that the stage logged over its steps, a small figure each: losses, and what its family names."""
    from matplotlib.figure import Figure

    records = [record for record in log if record["stage"] == stage]
    drawn = [name for name in dict.fromkeys(chain(*records)) if name not in NOT_DRAWN]
    found = []
    for name in drawn:
        figure = Figure(figsize=(2.6, 1.6), layout="constrained")
        axes = figure.subplots()
        points = [(record["step"], record[name]) for record in records if name in record]
        axes.plot(*zip(*points, strict=True), linewidth=1.2, marker="." if len(points) < 3 else "")
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        found.append((f"{stage}: {name}", figure))
    return found
