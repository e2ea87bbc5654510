"""MIND, the Monge Inception Distance: the sliced Wasserstein distance of features (Berthet et al. 2026)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..intervals import BOOTSTRAP, Estimate
from ..resampling import Draws, times_drawn
from .kernel import check_pair

DIRECTIONS = 1000
REPLICA_DIRECTIONS = 100  # of those, for the interval: a mean over fewer varies hardly more from draw to draw
SCALE = 3  # times the number of features, as the paper scales it
SEED = 2026  # of the directions


def mind(x: Tensor, y: Tensor, directions: int = DIRECTIONS) -> float:
    """3 F times the mean, over directions, of the squared 2-Wasserstein distance of the rows' projections; float64.

    Berthet et al. 2026 (arXiv 2605.06797). Of rows x (N, F) and y (M, F) whose distributions differ by a shift d alone
    it is about 3 |d|². It is at least zero, and larger the fewer rows there are, by about 1 / N. Directions are drawn
    uniformly from the unit sphere, the same for every set of as many features; 1000 of them, our choice. Unequal
    numbers of rows are compared exactly, by their quantile functions. Raises ValueError unless both have F columns and
    a row.
    """
    check_pair(x, y)
    lines = _directions(x.shape[1], directions).to(x.device)
    values = _squared_distances(*(_projected(rows, lines).sort(1).values for rows in (x, y)))
    return float(SCALE * x.shape[1] * values)


class SlicedDistance:
    """`mind` from a reference, with its bootstrap."""

    def __init__(self, reference: Tensor, draws: Draws):
        """reference: (M, F)."""
        self.reference = reference
        self.drawn, self.reference_drawn = (times_drawn(rows[1:]) for rows in (draws.samples, draws.reference))

    def of(self, samples: Tensor) -> Estimate:
        """Of samples (N, F), N as in the draws."""
        lines = _directions(samples.shape[1], REPLICA_DIRECTIONS).to(samples.device)
        x, y = (_projected(rows, lines).sort(1) for rows in (samples, self.reference))
        scale, values = SCALE * samples.shape[1], []
        for of_x, of_y in zip(self.drawn, self.reference_drawn, strict=True):
            values.append(scale * _squared_distances(_repeated(x, of_x), _repeated(y, of_y)))
        return Estimate(mind(samples, self.reference), torch.stack(values).cpu(), BOOTSTRAP)


def _directions(dim: int, count: int) -> Tensor:
    """(count, dim) float64 unit vectors; fewer are the first of more."""
    drawn = torch.randn(DIRECTIONS, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED))
    if count > DIRECTIONS:
        raise ValueError(f"directions: found {count}, expected at most {DIRECTIONS}")
    return torch.nn.functional.normalize(drawn[:count], dim=1)


def _projected(rows: Tensor, directions: Tensor) -> Tensor:
    return directions @ rows.double().T


def _repeated(ordered: tuple[Tensor, Tensor], drawn: Tensor) -> Tensor:
    """Projections (values, rows) in order -> the same, each as often as its row was drawn: still in order."""
    values, rows = ordered
    return values.flatten().repeat_interleave(drawn[rows].flatten(), output_size=values.numel()).view_as(values)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """The mean over lines of W2² of two sets of numbers in order, (D, N) and (D, M)."""
    if x.shape[1] == y.shape[1]:
        return (x - y).square().mean()
    # Both quantile functions are steps; between the ends of either's steps both are constant. In units of 1 / (N M):
    n, m = x.shape[1], y.shape[1]
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique().to(x.device)
    widths = ends.diff(prepend=ends.new_zeros(1)).double() / (n * m)
    return ((x[:, (ends - 1) // m] - y[:, (ends - 1) // n]).square() @ widths).mean()
