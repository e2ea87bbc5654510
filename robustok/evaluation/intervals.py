"""How far a Fréchet distance may be off because other images could have been drawn: the jackknife over tenths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from .metrics.frechet import frechet_distance
from .metrics.moments import FeatureStatistics

FOLDS = 10
STUDENT = 2.262  # 97.5 % quantile of Student's t with 9 degrees of freedom
WIDEST = 512  # features whose folds are kept, 21 MB for each of pFID's 17 sets; Inception's 2048 would take 335 MB each

Key = TypeVar("Key")


class Estimate(float):
    """A distance that also knows what it is with one fold of the images left out at a time."""

    left_out: Tensor | None  # (10,) float64; None where that is not known

    def __new__(cls, value: float, left_out: Tensor | None = None) -> Estimate:
        estimate = super().__new__(cls, value)
        estimate.left_out = left_out
        return estimate

    @classmethod
    def mean(cls, estimates: Iterable[Estimate]) -> Estimate:
        """The mean of distances of the same images; at least one."""
        several = list(estimates)
        parts = [estimate.left_out for estimate in several if estimate.left_out is not None]
        known = len(parts) == len(several)
        return cls(sum(several) / len(several), torch.stack(parts).mean(0) if known else None)

    def change_from(self, before: Estimate) -> Estimate:
        """This less `before`, both of the same images in the same order: what moves both alike is no change."""
        known = self.left_out is not None and before.left_out is not None
        return Estimate(float(self) - float(before), self.left_out - before.left_out if known else None)

    @property
    def interval(self) -> list[float] | None:
        """[low, high], 95 %, by the delete-a-group jackknife with Student's t; None where the folds are not known.

        It speaks of the draw of the images alone, the models being as they are.
        """
        if self.left_out is None:
            return None
        spread = (self.left_out - self.left_out.mean()).square().sum() * (FOLDS - 1) / FOLDS
        half = STUDENT * float(spread.sqrt())
        return [float(self) - half, float(self) + half]


class FoldedStatistics:
    """Moments of feature vectors that arrive in batches, in ten folds: row i goes to fold i mod 10.

    Takes the place of `FeatureStatistics` while rows come in, with ten times its memory; features wider than `widest`
    go into one fold, so that nothing can be left out.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu", *, widest: int = WIDEST):
        self.folds = [FeatureStatistics(dim, device) for _ in range(FOLDS if dim <= widest else 1)]
        self.count = 0

    def update(self, features: Tensor) -> FoldedStatistics:
        """Adds rows: features (B, dim). Returns self."""
        for number, fold in enumerate(self.folds):
            fold.update(features[(number - self.count) % len(self.folds) :: len(self.folds)])
        self.count += len(features)
        return self

    def total(self) -> FeatureStatistics:
        """Moments of all rows."""
        return _merged(self.folds)

    def left_out(self) -> list[FeatureStatistics]:
        """Moments with one fold left out at a time; none where there are fewer folds, or fewer rows, than ten."""
        if self.count < FOLDS or len(self.folds) < FOLDS:
            return []
        return [_merged(fold for fold in self.folds if fold is not left) for left in self.folds]


def distances(
    sets: Mapping[Key, FoldedStatistics], reference: FeatureStatistics | FoldedStatistics
) -> dict[Key, Estimate]:
    """The Fréchet distance of each set from the reference.

    A reference in folds is of the same images as the sets, in the same order, and is left out of with them; another
    stays whole.
    """
    if isinstance(reference, FeatureStatistics):
        whole, parts = reference, [reference] * FOLDS
    else:
        whole, parts = reference.total(), reference.left_out()
    found = {}
    for key, images in sets.items():
        left_out = [frechet_distance(*sides) for sides in zip(images.left_out(), parts, strict=False)]
        known = torch.tensor(left_out, dtype=torch.float64) if left_out else None
        found[key] = Estimate(frechet_distance(images.total(), whole), known)
    return found


def distance_of_rows(features: Tensor, reference: FeatureStatistics) -> Estimate:
    """The Fréchet distance of feature vectors (N, F) that are in memory, of any width."""
    folds = FoldedStatistics(features.shape[1], features.device, widest=features.shape[1])
    return distances({"": folds.update(features)}, reference)[""]


def recorded(figures: Mapping[str, float], before: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Figures for metrics.json: after each that is an Estimate NAME_interval, [low, high] or None.

    before: the same figures of what is compared with; then NAME_change_interval, of this less before, is added, too.
    """
    record: dict[str, Any] = {}
    for name, value in figures.items():
        record[name] = value
        if isinstance(value, Estimate):
            record[f"{name}_interval"] = value.interval
            if before is not None:
                record[f"{name}_change_interval"] = value.change_from(before[name]).interval
    return record


def _merged(folds: Iterable[FeatureStatistics] | Sequence[FeatureStatistics]) -> FeatureStatistics:
    first, *others = folds
    total = FeatureStatistics(first.dim, first.mean.device).merge(first)
    for fold in others:
        total.merge(fold)
    return total
