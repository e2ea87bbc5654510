"""Does one metric rank tokenizers as another does? Kendall's rank correlation with a bootstrap interval (figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...core.errors import UserError


class RankCorrelation(NamedTuple):
    """Kendall's tau-b, and its 95 % interval over resampled tokenizers (percentiles)."""

    tau: float
    low: float
    high: float
    pairs: int  # pairs of tokenizers that were compared


def rank_correlation(
    x: Sequence[float], y: Sequence[float], groups: Sequence | None = None, *, resamples: int = 2000, seed: int = 0
) -> RankCorrelation:
    """Rank correlation of two metrics over tokenizers: 1 for the same order, -1 for the reverse.

    Args:
        x, y: one value of each metric a tokenizer.
        groups: compare only tokenizers of one group (of one codebook size, say); None: all with all.
        resamples: bootstrap samples of the tokenizers, drawn with replacement; those without a pair are drawn again.

    With few tokenizers the interval is wide, and that is the finding. Raises ValueError for sequences of different
    lengths, UserError where there is no pair to compare.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    groups = np.zeros(len(x)) if groups is None else np.unique(groups, return_inverse=True)[1]
    if not len(x) == len(y) == len(groups):
        raise ValueError(f"rank_correlation: found {len(x)}, {len(y)} and {len(groups)} entries, expected one length")
    left, right = np.triu_indices(len(x), 1)
    signs_x, signs_y = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    comparable = groups[:, None] == groups
    tau = _tau(signs_x, signs_y, comparable, np.arange(len(x)))
    if tau is None:
        raise UserError("rank_correlation: no two tokenizers of one group differ in both metrics")
    generator, found = np.random.default_rng(seed), []
    while len(found) < resamples:
        value = _tau(signs_x, signs_y, comparable, generator.integers(len(x), size=len(x)))
        if value is not None:
            found.append(value)
    low, high = np.percentile(found, [2.5, 97.5])
    return RankCorrelation(tau, float(low), float(high), int(comparable[left, right].sum()))


def _tau(signs_x: np.ndarray, signs_y: np.ndarray, comparable: np.ndarray, rows: np.ndarray) -> float | None:
    """tau-b of the pairs among `rows` that may be compared; None where one metric does not tell any apart."""
    pairs = np.ix_(rows, rows)
    a, b = signs_x[pairs][comparable[pairs]], signs_y[pairs][comparable[pairs]]
    scale = np.sqrt(float((a != 0).sum()) * float((b != 0).sum()))
    return float((a * b).sum() / scale) if scale else None
