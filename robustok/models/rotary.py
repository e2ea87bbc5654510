"""Rotary positions: queries and keys turn by angles that depend on where their token is (arXiv 2104.09864)."""

import torch
from torch import Tensor

SLOWEST = 10000.0  # longest wave of positions, over 2 pi


def falling_angles(places: Tensor, channels: int) -> Tensor:
    """Places (N,) times channels / 2 falling frequencies, float64 (N, channels / 2)."""
    half = channels // 2
    falling = SLOWEST ** -(torch.arange(half, dtype=torch.float64, device=places.device) / half)
    return places.double()[:, None] * falling


def grid_angles(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Angles (N, width / 2) of the pairs of a head's channels: the first half turns with the row (N,), the second with
    the column."""
    return torch.cat([falling_angles(rows, width // 2), falling_angles(columns, width // 2)], 1)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turns each pair of neighbouring channels of x (..., 2 P) by its angle, given as cosine and sine (..., P)."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([first * cosines - second * sines, first * sines + second * cosines], -1)
    return turned.flatten(-2).to(x.dtype)
