"""Improved precision and recall: which rows of features lie in balls around those of another set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..statistics import ImageStatistics
from .kernel import check_pair
from .row_distances import ROWS, RoundedRows, RowDistances

NEIGHBOR = 3  # k, as published
SPARE = 5  # others whose bounds are kept beyond those asked for: hardly ever do as many leave a question open


def precision_recall_figures(samples: ImageStatistics, reference: ImageStatistics) -> dict[str, float] | None:
    """Precision and recall; None where a side kept no features, or too few to have a third neighbour."""
    real = reference.thinned_features()
    if samples.features is None or real is None or min(len(real), len(samples.features)) <= NEIGHBOR:
        return None
    precision, recall = precision_recall(real.to(samples.features.device), samples.features, NEIGHBOR)
    return {"precision": precision, "recall": recall}


@torch.inference_mode()
def precision_recall(real: Tensor, fake: Tensor, k: int = NEIGHBOR) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) of features real (N, F) and fake (M, F).

    Precision: the share of fake rows inside a ball around a real one, its radius the distance to the k-th nearest
    other real row; recall the converse. ADM's definition, of squared distances in float64: of those most are only
    bounded, and computed where the bounds do not decide. A row on the rim counts as inside, also where rounding puts
    it just outside. Raises ValueError for sets with no k-th neighbour, UserError for NaN and infinity.
    """
    check_pair(real, fake)
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"precision_recall: k = {k} needs more than {k} rows, found {len(real)} and {len(fake)}")
    distances = RowDistances(real, fake.to(real.device), count=k + SPARE)
    real, fake = distances.sets
    real_radii, fake_radii = (kth_distances(distances, rows, k) + distances.rounding for rows in (real, fake))
    fake_inside = inside(distances, fake, real, real_radii)
    real_inside = inside(distances, real, fake, fake_radii)
    return float(fake_inside.double().mean()), float(real_inside.double().mean())


def kth_distances(distances: RowDistances, x: RoundedRows, k: int) -> Tensor:
    """Squared distance of each row of x (N, F) to its k-th nearest other row: (N,) float64."""
    low, high, columns = distances.least(x, x, k + SPARE)
    least, most = low[:, k - 1 : k], high[:, :k].amax(1, keepdim=True)  # of the k-th
    nearer, beyond = high < least, low > most
    exact = torch.where(nearer, low, torch.inf)
    rows, places = (~nearer & ~beyond).nonzero(as_tuple=True)
    exact[rows, places] = distances.of_pairs(x, x, rows, columns[rows, places])
    radii = exact.topk(k, 1, largest=False).values[:, -1]
    for crowded in _blocks(~beyond[:, -1]):  # more others may be as near than were kept
        found = distances.of_rows(x, x, crowded).scatter_(1, crowded[:, None], torch.inf)
        radii[crowded] = found.topk(k, 1, largest=False).values[:, -1]
    return radii


def inside(distances: RowDistances, points: RoundedRows, centres: RoundedRows, radii: Tensor) -> Tensor:
    """Whether each of N points is in a ball: centres (M, F), squared radii (M,) -> bool (N,)."""
    low, high, columns = distances.least(points, centres, SPARE, radii)
    found = (high <= 0).any(1)
    unsure = (low <= 0) & ~found[:, None]
    rows, places = unsure.nonzero(as_tuple=True)
    near = columns[rows, places]
    found[rows[distances.of_pairs(points, centres, rows, near) <= radii[near]]] = True
    for crowded in _blocks(unsure[:, -1] & ~found):
        found[crowded] = (distances.of_rows(points, centres, crowded) <= radii).any(1)
    return found


def _blocks(mask: Tensor) -> Sequence[Tensor]:
    """The numbers of the rows that a mask (N,) marks, ROWS at a time."""
    numbers = mask.nonzero()[:, 0]
    return numbers.split(ROWS) if len(numbers) else ()
