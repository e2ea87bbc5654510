"""How far a figure may be off because other images could have been drawn; of Fréchet distances by the jackknife."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .metrics.frechet import frechet_distance
from .metrics.moments import FeatureStatistics

FOLDS = 10
WIDEST = 512  # features whose folds are kept, 21 MB for each of pFID's 17 sets; Inception's 2048 would take 335 MB each

Key = TypeVar("Key")


class Resampling(NamedTuple):
    """How a figure was computed anew, to see how far it moves."""

    quantile: float  # 97.5 % of Student's t with one degree of freedom less than there are replicas
    factor: float  # the squared standard error, in variances of the replicas


JACKKNIFE = Resampling(2.262, FOLDS - 1)  # with one tenth of the images left out at a time
BOOTSTRAP = Resampling(1.98, 1.0)  # of as many images drawn with replacement, 100 or 200 times


class Estimate(float):
    """A figure of images that also knows what it is when computed anew from some of them.

    `replicas` are those values, float64 (R,), None where they are not known; `how` says where they came from. Equal
    sets of images are left out and drawn alike, so that replica i of two figures speaks of the same images.
    """

    replicas: Tensor | None
    how: Resampling

    def __new__(cls, value: float, replicas: Tensor | None = None, how: Resampling = JACKKNIFE) -> Estimate:
        estimate = super().__new__(cls, value)
        estimate.replicas, estimate.how = replicas, how
        return estimate

    @classmethod
    def mean(cls, estimates: Iterable[Estimate]) -> Estimate:
        """The mean of figures of the same images, all resampled alike; at least one."""
        several = list(estimates)
        return cls(sum(several) / len(several), *_joined(several, lambda *parts: torch.stack(parts).mean(0)))

    def change_from(self, before: Estimate) -> Estimate:
        """This less `before`, both of the same images in the same order: what moves both alike is no change."""
        return Estimate(float(self) - float(before), *_joined([self, before], torch.sub))

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval; None where there are no replicas."""
        if self.replicas is None:
            return None
        return self.how.quantile * float(self.how.factor * self.replicas.var(correction=0)) ** 0.5

    @property
    def interval(self) -> list[float] | None:
        """[low, high], 95 %: the value and the standard error of its replicas; None where there are none.

        It speaks of the draw of the images alone, the models being as they are.
        """
        half = self.half_width
        return None if half is None else [float(self) - half, float(self) + half]


def _joined(estimates: Sequence[Estimate], join: Callable[..., Tensor]) -> tuple[Tensor | None, Resampling]:
    """What is made of the replicas of several figures, None where one has none, and where they came from."""
    how = {estimate.how for estimate in estimates}
    if len(how) > 1:
        raise ValueError("a jackknifed and a bootstrapped figure have no replicas of the same images")
    parts = [estimate.replicas for estimate in estimates]
    return (None if any(part is None for part in parts) else join(*parts)), how.pop()


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
