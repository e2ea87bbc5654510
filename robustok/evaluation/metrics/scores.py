"""Inception Score."""

from __future__ import annotations

import torch
from torch import Tensor

from ..statistics import ImageStatistics
from .kernel import legacy_generator

SPLITS = 10  # as published


def inception_figures(samples: ImageStatistics, reference: ImageStatistics) -> dict[str, float] | None:
    """Inception Score of the samples alone, over 10 splits; None where no logits were kept."""
    if samples.logits is None:
        return None
    mean, spread = inception_score(samples.logits, min(SPLITS, len(samples.logits)))
    return {"inception_score": mean, "inception_score_std": spread}


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
