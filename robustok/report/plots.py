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


def settings_figure(table: Mapping[tuple[float, int], float], label: str) -> Figure:
    """One curve over alpha for each delta: pFID's cells, or the MMD of perturbed and generated latents."""
    figure, axes = _figure()
    for delta in sorted({delta for _, delta in table}):
        points = sorted((alpha, value) for (alpha, d), value in table.items() if d == delta)
        axes.plot(*zip(*points, strict=True), marker="o", label=f"delta {delta}")
    axes.set(xlabel="alpha: share of tokens perturbed", ylabel=label)
    axes.legend(frameon=False)
    return figure


def usage_figure(usage: Usage) -> Figure:
    """How often each code is used, most frequent first."""
    figure, axes = _figure()
    axes.plot(np.sort(usage.counts.numpy())[::-1] + 1)
    axes.set(xlabel="codes, most frequent first", ylabel="tokens + 1", yscale="log")
    axes.set_title(f"{usage.used:.1%} used, perplexity {usage.perplexity:.0f} of {len(usage.counts)}")
    return figure


def map_figure(points: Tensor, usage: Usage, thresholds: Sequence[int] = (0, 1, 10, 100)) -> Figure:
    """t-SNE of the codebook: one panel for each usage threshold, codes used more often coloured by their count."""
    from matplotlib.colors import LogNorm

    figure, panels = _figure(columns=len(thresholds))
    counts = usage.counts.numpy()
    norm = LogNorm(1, max(2, counts.max()))
    for axes, threshold in zip(panels, thresholds, strict=True):
        above = counts > threshold
        axes.scatter(*points[~above].T, s=4, color="0.85")
        marks = axes.scatter(*points[above].T, s=6, c=counts[above], norm=norm, cmap="viridis")
        axes.set(title=f"used more than {threshold} times: {above.mean():.0%}", xticks=[], yticks=[])
    figure.colorbar(marks, ax=panels, label="tokens", shrink=0.8)
    return figure


def elbow_figure(spread: Mapping[int, float]) -> Figure:
    """Mean squared distance to the k-means centre over the number of clusters."""
    figure, axes = _figure()
    axes.plot(list(spread), list(spread.values()), marker="o")
    axes.set(xlabel="clusters", ylabel="mean squared distance to the centre", xscale="log")
    axes.set_xticks(list(spread), [str(k) for k in spread])
    axes.minorticks_off()
    return figure


def lipschitz_figure(estimates: Mapping[str, Lipschitz]) -> Figure:
    """Distribution of the decoder's |pixels| / |latent| ratios, one histogram a tokenizer."""
    figure, axes = _figure()
    for name, estimate in estimates.items():
        axes.hist(estimate.ratios.numpy(), bins=40, alpha=0.6, label=f"{_label(name)}: mean {estimate.mean:.3g}")
    axes.set(xlabel="|decode(z') - decode(z)| / |z' - z|", ylabel="images")
    axes.legend(frameon=False)
    return figure


def correlation_figure(rows: Sequence[Mapping], x: str, y: str) -> Figure:
    """One point a tokenizer (rows with `name`, x and y), for one metric against another."""
    figure, axes = _figure()
    for row in rows:
        axes.scatter(row[x], row[y], color="C0")
        axes.annotate(_label(row["name"]), (row[x], row[y]), textcoords="offset points", xytext=(5, 3), fontsize=8)
    axes.set(xlabel=x, ylabel=y)
    return figure


def _label(name: str) -> str:
    """A name that matplotlib shows as it is: $ would begin mathematics, and legends leave out what begins with _."""
    shown = printable(name).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _figure(columns: int = 1):
    """A figure that belongs to no window, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.4, 4 * columns), 4), layout="constrained")
    axes = figure.subplots(1, columns)
    for ax in np.atleast_1d(axes):
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes
