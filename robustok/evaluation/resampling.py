"""The bootstrap: which rows each replica of a figure is of (Efron 1979)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

REPLICAS = 200
SEED = 2026  # fixed, as two figures are comparable by replicas of the same rows alone


class Draws(NamedTuple):
    """Rows of the samples and of the reference, the first line all of them once in a random order, then REPLICAS lines
    of as many drawn with replacement. Equal numbers of rows get equal draws.
    """

    samples: Tensor  # (1 + REPLICAS, N) int64
    reference: Tensor  # (1 + REPLICAS, M) int64; that of the samples where the sets are paired
    paired: bool  # row i of both sides is of the same image


def draw(samples: int, reference: int, *, paired: bool, device: torch.device | str = "cpu") -> Draws:
    """Draws for sets of so many rows.

    paired: images are drawn, each with what was made of it. Otherwise the two sides are drawn independently, the
    reference too: it is as much a sample of its distribution as the samples are of theirs. Raises ValueError for paired
    sets of unequal size.
    """
    if paired and samples != reference:
        raise ValueError(f"paired sets: found {samples} and {reference} rows, expected as many of both")
    rows = _rows(samples, SEED).to(device)
    return Draws(rows, rows if paired else _rows(reference, SEED + 1).to(device), paired)


def times_drawn(rows: Tensor) -> Tensor:
    """How often a line has each row: rows (R, N) int64 in [0, N) -> (R, N) int64."""
    return torch.zeros_like(rows).scatter_add_(1, rows, torch.ones_like(rows))


def _rows(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (REPLICAS, count), generator=generator)
    return torch.cat([torch.randperm(count, generator=generator)[None], drawn])
