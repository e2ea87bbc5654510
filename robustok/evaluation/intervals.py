"""How far a Fréchet distance may be off because other samples could have been drawn: the jackknife over tenths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .metrics.frechet import frechet_distance
from .metrics.moments import FeatureStatistics

FOLDS = 10
STUDENT = 2.262  # 97.5 % quantile of Student's t with 9 degrees of freedom


class FoldedFeatures:
    """A network of features that also keeps the moments of every tenth image apart: image i goes to fold i mod 10."""

    def __init__(self, network: Callable[[Tensor], Any]):
        self.network, self.count = network, 0
        self.folds: list[FeatureStatistics] = []

    def __call__(self, images: Tensor) -> Any:
        """The network's output for uint8 (b, 3, H, W), whose `.features` (b, F) are taken in."""
        output = self.network(images)
        features = output.features
        self.folds = self.folds or [FeatureStatistics(features.shape[1], features.device) for _ in range(FOLDS)]
        for number, fold in enumerate(self.folds):
            fold.update(features[(number - self.count) % FOLDS :: FOLDS])
        self.count += len(features)
        return output

    def left_out(self, reference: FeatureStatistics) -> Tensor:
        """(10,) float64: the distance from `reference` with one fold left out at a time."""
        distances = []
        for left in self.folds:
            others = FeatureStatistics(left.dim, reference.mean.device)
            for fold in self.folds:
                if fold is not left:
                    others.merge(fold)
            distances.append(frechet_distance(others, reference))
        return torch.tensor(distances, dtype=torch.float64)


def interval(value: float, left_out: Tensor) -> list[float]:
    """[low, high], the 95 % interval of `value` from what it is with one fold left out at a time (10,).

    The delete-a-group jackknife with Student's t: it speaks of the draw of the samples alone, the reference and the
    models being as they are. Of the difference of two decoders on the same samples, take the difference of theirs.
    """
    spread = (left_out - left_out.mean()).square().sum() * (FOLDS - 1) / FOLDS
    half = STUDENT * float(spread.sqrt())
    return [value - half, value + half]
