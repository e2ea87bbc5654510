"""Scores beside the distances: Inception Score, and precision and recall of features."""

from __future__ import annotations

import torch
from torch import Tensor

from ..statistics import ImageStatistics
from .kernel import check_pair, legacy_generator

TILE = 2048  # rows of a tile of distances: whatever the size of the sets, a few 2048 x 2048 doubles are held
SPLITS = 10  # of the Inception Score, as published
NEIGHBOR = 3  # k of precision and recall, as published


def inception_figures(samples: ImageStatistics, reference: ImageStatistics) -> dict[str, float] | None:
    """Inception Score of the samples alone, over 10 splits; None where no logits were kept."""
    if samples.logits is None:
        return None
    mean, spread = inception_score(samples.logits, min(SPLITS, len(samples.logits)))
    return {"inception_score": mean, "inception_score_std": spread}


def precision_recall_figures(samples: ImageStatistics, reference: ImageStatistics) -> dict[str, float] | None:
    """Precision and recall; None where a side kept no features, or too few to have a third neighbour."""
    real = reference.thinned_features()
    if samples.features is None or real is None or min(len(real), len(samples.features)) <= NEIGHBOR:
        return None
    precision, recall = precision_recall(real.to(samples.features.device), samples.features, NEIGHBOR)
    return {"precision": precision, "recall": recall}


def inception_score(logits_without_bias: Tensor, splits: int = SPLITS, seed: int | None = 2020) -> tuple[float, float]:
    """Inception Score exp(mean KL(p(y|x) || p(y))) of logits (N, classes): mean and spread over `splits`.

    Salimans et al. 2016. The rows are shuffled with numpy's RandomState(seed), None: kept in order; the marginal p(y)
    is each split's own; the spread is the population standard deviation. Raises ValueError for fewer rows than splits.
    """
    N = len(logits_without_bias)
    if splits > N:
        raise ValueError(f"inception_score: found {N} rows, expected at least one for each of the {splits} splits")
    logits, order = logits_without_bias, torch.arange(N)
    if seed is not None:
        order = torch.from_numpy(legacy_generator(seed).permutation(N))
    scores = []
    for i in range(splits):
        rows = order[i * N // splits : (i + 1) * N // splits].to(logits.device)
        log_p = torch.log_softmax(logits[rows].double(), dim=1)
        p = log_p.exp()
        marginal = p.mean(dim=0)
        scores.append((p * log_p).sum(dim=1).mean() - torch.special.xlogy(marginal, marginal).sum())
    scores = torch.stack(scores).exp()
    return float(scores.mean()), float(scores.std(correction=0))


def precision_recall(real: Tensor, fake: Tensor, k: int = NEIGHBOR) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) of features real (N, F) and fake (M, F).

    Precision: the share of fake rows inside a ball around a real one, its radius the distance to the k-th nearest
    other real row; recall the converse. ADM's definition. Squared distances in float64, tile by tile: no N x M matrix
    is stored. A row on the rim counts as inside, also where rounding puts it just outside. Raises ValueError for sets
    with no k-th neighbour.
    """
    check_pair(real, fake)
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"precision_recall: k = {k} needs more than {k} rows, found {len(real)} and {len(fake)}")
    fake = fake.to(real.device)
    rounding = 64 * torch.finfo(torch.float64).eps * max(float(x.square().sum(dim=1).max()) for x in (real, fake))
    real_radii, fake_radii = (kth_distances(x, k) + rounding for x in (real, fake))
    fake_inside = torch.zeros(len(fake), dtype=torch.bool, device=real.device)
    real_inside = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for i in range(0, len(real), TILE):
        for j in range(0, len(fake), TILE):
            rows, columns = slice(i, i + TILE), slice(j, j + TILE)
            distances = _squared_distances(real[rows], fake[columns])
            fake_inside[columns] |= (distances <= real_radii[rows, None]).any(dim=0)
            real_inside[rows] |= (distances <= fake_radii[None, columns]).any(dim=1)
    return float(fake_inside.double().mean()), float(real_inside.double().mean())


def kth_distances(x: Tensor, k: int) -> Tensor:
    """Squared distance of each row of x (N, F) to its k-th nearest other row: (N,)."""
    nearest = []
    for rows in x.split(TILE):
        smallest = rows.new_empty(len(rows), 0, dtype=torch.float64)
        for columns in x.split(TILE):
            candidates = torch.cat([smallest, _squared_distances(rows, columns)], dim=1)
            smallest = candidates.topk(min(k + 1, candidates.shape[1]), dim=1, largest=False).values
        nearest.append(smallest[:, k])  # the row itself is the nearest of the k + 1
    return torch.cat(nearest)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.double(), y.double()  # a tile at a time: the sets stay in their own precision
    squares = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)[None]
    return torch.addmm(squares, x, y.T, alpha=-2).clamp_(min=0)
