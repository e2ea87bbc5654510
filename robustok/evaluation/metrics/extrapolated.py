"""The Fréchet distance that infinitely many images would have, extrapolated from fewer (Chong and Forsyth 2020)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..intervals import BOOTSTRAP, Estimate
from ..resampling import Draws

PARTS = (1, 2, 3)  # into how many parts the images are divided; the distance is a straight line over this
INTERCEPT = (4 / 3, 1 / 3, -2 / 3)  # of the least squares line through the three, where no part is left: N -> infinity
AT_ONCE = 8  # replicas
ROWS_PER_FEATURE = 4  # with fewer rows a third of them has a covariance near singular, and the line is none
REPLICAS = 100  # of the bootstrap's: half of them know the standard error to 7 %
WIDEST = 128  # features of which 101 times 6 distances are affordable: a quarter of a second at 64, one at 128, a core


class Moments(NamedTuple):
    """Of six sets of rows for each of R replicas: all of them, their halves, their thirds."""

    mean: Tensor  # (R, 6, F)
    covariance: Tensor  # (R, 6, F, F), unbiased


class ExtrapolatedDistance:
    """Fréchet distance from a reference, less what it has too much because the images are few.

    That excess is c / N + O(1 / N²). Chong and Forsyth fit a line in 1 / N to distances of several sizes; here all
    images, both halves and all three thirds are taken, and both sides are divided, as the reference is as small as the
    samples are. The division is a random one, the same for all sets of as many images, of both sides where the sets
    are paired. The result can be negative near zero.
    """

    def __init__(self, reference: Tensor, draws: Draws):
        """reference: (M, F). The moments of its replicas are kept, 5 F² KB: 20 MB of 64 features."""
        replicas = 1 + (REPLICAS if reference.shape[1] <= WIDEST else 0)
        self.draws = draws.samples[:replicas].split(AT_ONCE)
        drawn = draws.reference[:replicas].split(AT_ONCE)
        self.enough = min(draws.samples.shape[1], len(reference)) >= ROWS_PER_FEATURE * reference.shape[1]
        self.reference = [_rooted(_moments(reference, lines)) for lines in drawn] if self.enough else []

    def of(self, samples: Tensor) -> Estimate | None:
        """Of samples (N, F), N as in the draws; without an interval where F is above WIDEST.

        None where a side has fewer than 4 F rows: nothing can be said of infinitely many from those.
        """
        if not self.enough:
            return None
        against = zip(self.draws, self.reference, strict=True)
        distances = torch.cat([_distances(_moments(samples, lines), reference) for lines, reference in against])
        means = [part.mean(1) for part in distances.cpu().split(PARTS, dim=1)]
        values = sum(factor * mean for factor, mean in zip(INTERCEPT, means, strict=True))
        return Estimate(float(values[0]), values[1:] if len(values) > 1 else None, BOOTSTRAP)


def _moments(rows: Tensor, drawn: Tensor) -> Moments:
    """Of rows (N, F) as the lines drawn (R, N) have them; what does not fill a half or third is left out of it."""
    found, taken = [], rows.double()[drawn]
    for parts in PARTS:
        size = taken.shape[1] // parts
        divided = taken[:, : size * parts].unflatten(1, (parts, size))
        mean = divided.mean(2)
        centred = divided - mean[:, :, None]
        found.append((mean, centred.mT @ centred / (size - 1)))
    return Moments(*(torch.cat(values, 1) for values in zip(*found, strict=True)))


def _rooted(moments: Moments) -> Moments:
    """With H, covariance = H H^T, in the place of the covariances."""
    roots, failed = torch.linalg.cholesky_ex(moments.covariance)
    if failed.any():  # a constant feature, or one that follows from others
        values, vectors = torch.linalg.eigh(moments.covariance)
        roots = vectors * values.clamp(min=0).sqrt()[..., None, :]
    return Moments(moments.mean, roots)


def _distances(samples: Moments, reference: Moments) -> Tensor:
    """(R, 6) as `frechet_distance` has them; reference: with roots."""
    roots = reference.covariance
    eigenvalues = torch.linalg.eigvalsh(roots.mT @ samples.covariance @ roots).clamp(min=0)
    traces = samples.covariance.diagonal(dim1=-2, dim2=-1).sum(-1) + roots.square().sum((-2, -1))
    return (samples.mean - reference.mean).square().sum(-1) + traces - 2 * eigenvalues.sqrt().sum(-1)
