"""Does one metric rank tokenizers as another does? Rank correlations with bootstrap intervals (paper, figure 5).

Both coefficients are sums over pairs of tokenizers: with s_ij = sign(x_i - x_j) and t_ij the same of y, Kendall's tau-b
is sum s_ij t_ij / sqrt(sum |s_ij| sum |t_ij|), and Spearman's rho the cosine of the rows' sums of s and of t, since
a row's sum is twice the distance of a rank from the middle (ties share their mean rank).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement, permutations
from typing import NamedTuple

import numpy as np

from ...core.errors import UserError

MIN_POINTS = 4  # fewer say nothing: any order of three has a probability of 1 in 6
EXACT_POINTS = 8  # up to as many, all resamples (6,435 multisets of 8) and all orders (40,320) are counted
DRAWS = 10_000  # beyond, of resamples and of orders


class RankCorrelation(NamedTuple):
    """Kendall's tau-b, and its 95 % interval over resampled tokenizers (percentiles)."""

    tau: float
    low: float
    high: float
    pairs: int  # pairs of tokenizers that were compared


class RankAgreement(NamedTuple):
    """A rank correlation coefficient of two metrics over tokenizers, and what may be made of it."""

    value: float
    low: float  # 95 % interval of the bootstrap over tokenizers
    high: float
    p: float  # share of all orders of one metric whose coefficient is as far from 0: what chance would do


def rank_agreement(x: Sequence[float], y: Sequence[float], *, seed: int = 0) -> dict[str, RankAgreement] | None:
    """ "spearman" (rho) and "kendall" (tau-b) of one value of each metric a tokenizer; None below MIN_POINTS.

    The interval is that of the percentile bootstrap: 2.5 and 97.5 % of the coefficient over tokenizers drawn with
    replacement, those draws left out in which a metric tells no two apart. A perfect order stays perfect under it: its
    interval is one point, however few tokenizers there are. What guards against reading much into few is `p`, of the
    permutation test (two-sided). Up to EXACT_POINTS tokenizers both count all draws and all orders with their
    probability; beyond, DRAWS of them by `seed`.
    Raises ValueError for sequences of different lengths, UserError where a metric is the same for all.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) != len(y):
        raise ValueError(f"rank_agreement: found {len(x)} and {len(y)} values, expected one of each a tokenizer")
    n = len(x)
    if n < MIN_POINTS:
        return None
    s, t = _signs(x), _signs(y)
    if not s.any() or not t.any():
        raise UserError("rank_agreement: one of the metrics has the same value for all tokenizers")
    draw = np.random.default_rng(seed)
    resamples, weights = _resamples(n, draw)
    everything = np.arange(n)[None]
    orders = (
        np.array(list(permutations(range(n))))
        if n <= EXACT_POINTS
        else draw.permuted(np.repeat(everything, DRAWS, 0), axis=1)
    )
    found = {}
    for name, coefficient in (("spearman", _spearman), ("kendall", _kendall)):
        value = float(coefficient(s, t, everything, everything)[0])
        resampled = coefficient(s, t, resamples, resamples)
        low, high = _quantiles(resampled, weights)
        by_chance = coefficient(s, t, np.broadcast_to(everything, orders.shape), orders)
        p = float(np.mean(np.abs(by_chance) >= abs(value) - 1e-12))
        found[name] = RankAgreement(value, low, high, p)
    return found


def _signs(values: np.ndarray) -> np.ndarray:
    return np.sign(values[:, None] - values)


def _resamples(n: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of n tokenizers drawn from n with replacement (M, n), and the probability of each."""
    if n > EXACT_POINTS:
        return draw.integers(n, size=(DRAWS, n)), np.full(DRAWS, 1 / DRAWS)
    rows = np.array(list(combinations_with_replacement(range(n), n)))
    times = (rows[:, :, None] == np.arange(n)).sum(1)  # how often each is drawn
    ways = [math.factorial(n) // math.prod(map(math.factorial, row)) for row in times.tolist()]
    return rows, np.array(ways) / n**n


def _spearman(s: np.ndarray, t: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """rho for each row of indices into x (M, n) beside those into y; NaN where one tells none apart."""
    a, b = (_pairs(signs, rows).sum(2) for signs, rows in ((s, left), (t, right)))
    return _cosine((a * b).sum(1), (a * a).sum(1), (b * b).sum(1))


def _kendall(s: np.ndarray, t: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """tau-b, in the same way."""
    a, b = _pairs(s, left), _pairs(t, right)
    return _cosine(*(values.sum((1, 2)) for values in (a * b, np.abs(a), np.abs(b))))


def _pairs(signs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(M, n, n): the signs of all pairs of each row of indices."""
    return signs[rows[:, :, None], rows[:, None, :]]


def _cosine(product: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    scale = np.sqrt(first * second)
    return np.divide(product, scale, out=np.full(len(scale), np.nan), where=scale > 0)


def _quantiles(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """2.5 and 97.5 % of a discrete distribution: the least values that as much of the probability does not exceed."""
    known = np.isfinite(values)
    order = np.argsort(values[known])
    values, below = values[known][order], np.cumsum(weights[known][order])
    low, high = (values[np.searchsorted(below, share * below[-1] * (1 - 1e-12))] for share in (0.025, 0.975))
    return float(low), float(high)


def rank_correlation(
    x: Sequence[float], y: Sequence[float], groups: Sequence | None = None, *, resamples: int = 2000, seed: int = 0
) -> RankCorrelation:
    """Kendall's tau over the pairs of tokenizers of one group: 1 for the same order, -1 for the reverse.

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
    signs_x, signs_y = _signs(x), _signs(y)
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
