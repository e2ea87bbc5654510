"""Pictures of what was measured, as matplotlib figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..core.text import printable
from ..evaluation.explaining import Lipschitz, Usage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST = 32  # letters of a name in a figure


def settings_figure(table: Mapping[tuple[float, int], float], label: str) -> Figure:
    """One curve over alpha for each delta: pFID's cells, or the MMD of perturbed and generated latents."""
    figure, axes = new_figure()
    for delta in sorted({delta for _, delta in table}):
        points = sorted((alpha, value) for (alpha, d), value in table.items() if d == delta)
        axes.plot(*zip(*points, strict=True), marker="o", label=f"delta {delta}")
    axes.set(xlabel="alpha: share of tokens perturbed", ylabel=literal(label))
    axes.legend(frameon=False)
    return figure


def usage_figure(usage: Usage) -> Figure:
    """The share of the tokens that each code has, most frequent first; codes that do not occur have no bar."""
    figure, axes = new_figure()
    shares = np.sort(usage.counts.numpy())[::-1] / int(usage.counts.sum())
    used = shares[shares > 0]
    axes.stairs(used, np.arange(len(used) + 1), fill=True, baseline=used[-1] / 2, alpha=0.8)
    axes.axhline(1 / len(shares), color="0.4", linewidth=1, linestyle="--", label="all codes alike")
    axes.set(xlabel="codes, most frequent first", ylabel="share of tokens", yscale="log", xlim=(0, len(shares)))
    axes.legend(frameon=False)
    return figure


def map_figure(points: Tensor, usage: Usage, thresholds: Sequence[int] = (0, 1, 10, 100)) -> Figure:
    """t-SNE of the codebook: one panel for each usage threshold, codes used more often coloured by their count."""
    from matplotlib.colors import LogNorm

    figure, panels = new_figure(panels=len(thresholds))
    counts = usage.counts.numpy()
    norm = LogNorm(1, max(2, counts.max()))
    for axes, threshold in zip(panels.flat, thresholds, strict=True):
        above = counts > threshold
        axes.scatter(*points[~above].T, s=4, color="0.85")
        marks = axes.scatter(*points[above].T, s=6, c=counts[above], norm=norm, cmap="viridis")
        axes.set_title(f"used more than {threshold} times: {above.mean():.0%}", fontsize=8)
        axes.set(xticks=[], yticks=[])
    figure.colorbar(marks, ax=panels, label="tokens", shrink=0.8)
    return figure


def elbow_figure(spread: Mapping[int, float]) -> Figure:
    """Mean squared distance to the k-means centre over the number of clusters."""
    figure, axes = new_figure()
    axes.plot(list(spread), list(spread.values()), marker="o")
    axes.set(xlabel="clusters", ylabel="mean squared distance to the centre", xscale="log")
    axes.set_xticks(list(spread), [str(k) for k in spread])
    axes.minorticks_off()
    return figure


def lipschitz_figure(estimates: Mapping[str, Lipschitz]) -> Figure:
    """Distribution of the decoder's |pixels| / |latent| ratios, one histogram a tokenizer."""
    figure, axes = new_figure()
    for name, estimate in estimates.items():
        axes.hist(estimate.ratios.numpy(), bins=40, alpha=0.6, label=f"{_label(name)}: mean {estimate.mean:.3g}")
    axes.set(xlabel="|decode(z') - decode(z)| / |z' - z|", ylabel="images")
    axes.legend(frameon=False)
    return figure


def correlation_figure(rows: Sequence[Mapping], x: str, y: str) -> Figure:
    """One point a tokenizer (rows with `name`, x and y), for one metric against another."""
    figure, axes = new_figure()
    for row in rows:
        axes.scatter(row[x], row[y], color="C0")
        axes.annotate(_label(row["name"]), (row[x], row[y]), textcoords="offset points", xytext=(5, 3), fontsize=8)
    axes.set(xlabel=x, ylabel=y)
    return figure


def literal(text: str) -> str:
    """Text that matplotlib shows as it is: $ would begin mathematics."""
    return printable(text).replace("$", r"\$")


def _label(name: str) -> str:
    """A name in a legend, which leaves out what begins with _, or beside a point; of a long one, a path, the end."""
    shown = name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"
    return literal(f" {shown}" if shown.startswith("_") else shown)


def new_figure(panels: int = 1, size: tuple[float, float] | None = None):
    """A figure that belongs to no window, and its axes; several are two in a row. Small, so that letters are large.

    size: width and height in inches; None: by the number of panels.
    """
    from matplotlib.figure import Figure

    columns, rows = min(2, panels), -(-panels // 2)
    figure = Figure(figsize=size or (5.2, 3.4 if rows == 1 else 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns)
    for ax in np.atleast_1d(axes).flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes
