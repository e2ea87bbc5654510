"""How far a study's figures may be off: what another seed would change, pooled over the rows with several seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..report.wording import rounded


class SeedInterval(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def has_zero(self) -> bool:
        """Whether it says nothing of the sign."""
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        return rounded(self.value, (self.high - self.low) / 2)


class SeedNoise(NamedTuple):
    """The spread of one figure from seed to seed, taken to be the same for all rows: normal, of `deviation`."""

    deviation: float
    freedom: int  # degrees of freedom that it was found with

    @classmethod
    def pooled(cls, rows: Iterable[Sequence[float]]) -> SeedNoise:
        """From rows of a figure, a value a seed. Raises ValueError where no row has two."""
        several = [np.asarray(row, float) for row in rows if len(row) > 1]
        if not several:
            raise ValueError("the spread from seed to seed takes a row with at least two seeds")
        freedom = sum(len(row) - 1 for row in several)
        squares = sum(float(((row - row.mean()) ** 2).sum()) for row in several)
        return cls(math.sqrt(squares / freedom), freedom)

    def of_mean(self, values: Sequence[float]) -> SeedInterval:
        """Of the mean over all seeds that there could be, from the values of some."""
        return self._around(float(np.mean(values)), 1 / len(values))

    def of_rerun(self, values: Sequence[float]) -> SeedInterval:
        """In which one more run of the row lies, of another seed or on another machine: training carries the rounding
        of a processor as far as another seed.
        """
        return self._around(float(np.mean(values)), 1 + 1 / len(values))

    def of_difference(self, values: Sequence[float], others: Sequence[float]) -> SeedInterval:
        """Of the mean of one row less that of another."""
        return self._around(float(np.mean(values) - np.mean(others)), 1 / len(values) + 1 / len(others))

    def _around(self, value: float, share: float) -> SeedInterval:
        half = _student(self.freedom) * self.deviation * math.sqrt(share)
        return SeedInterval(value, value - half, value + half)


def mean_change(changes: Sequence[float]) -> SeedInterval:
    """Of the mean of changes of independent runs, at least two."""
    values = np.asarray(changes, float)
    half = _student(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return SeedInterval(float(values.mean()), float(values.mean()) - half, float(values.mean()) + half)


def rank_difference(
    target: Sequence[float], x: Sequence[float], y: Sequence[float], *, seed: int = 0, draws: int = 4000
) -> SeedInterval:
    """Spearman's rho of x with the target less that of y with it, and the percentile bootstrap's interval over runs.

    Draws in which a figure is the same for all are left out.
    """
    from scipy.stats import rankdata

    t, a, b = (np.asarray(values, float) for values in (target, x, y))
    generator, found = np.random.default_rng(seed), []

    def rho(values: np.ndarray, rows: np.ndarray) -> float:
        return float(np.corrcoef(rankdata(values[rows]), rankdata(t[rows]))[0, 1])

    for _ in range(draws):
        rows = generator.integers(len(t), size=len(t))
        if min(len(set(values[rows])) for values in (t, a, b)) > 1:
            found.append(rho(a, rows) - rho(b, rows))
    every = np.arange(len(t))
    low, high = np.percentile(found, [2.5, 97.5])
    return SeedInterval(rho(a, every) - rho(b, every), float(low), float(high))


def by_row(values: Mapping[tuple[str, int], float]) -> dict[str, list[float]]:
    """(row, seed) -> value, as row -> its values."""
    rows: dict[str, list[float]] = {}
    for (row, _), value in values.items():
        rows.setdefault(row, []).append(value)
    return rows


def _student(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
