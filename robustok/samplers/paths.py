"""Straight and trigonometric paths between data and noise: z_t = a(t) data + s(t) noise, data at t = 0, noise at 1.

(SiT, arXiv 2401.08740, sections 2.1 and 2.2.) A network predicts the velocity a'(t) data + s'(t) noise.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Path = Literal["linear", "cosine"]


class Coefficients(NamedTuple):
    """Of a path at some times; each is shaped like the times."""

    data: Tensor  # a(t): the share of the data
    noise: Tensor  # s(t): that of the noise
    data_slope: Tensor  # a'(t)
    noise_slope: Tensor  # s'(t)


def coefficients(path: Path, t: Tensor) -> Coefficients:
    """Those of `path` at times t in [0, 1], in the dtype of t."""
    if path == "linear":
        return Coefficients(1 - t, t, -torch.ones_like(t), torch.ones_like(t))
    angle, speed = math.pi / 2 * t, math.pi / 2
    return Coefficients(angle.cos(), angle.sin(), -speed * angle.sin(), speed * angle.cos())


def interpolate(path: Path, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """z_t between data and noise, both (B, ...), at times t (B,)."""
    at = coefficients(path, per_sample(t, data))
    return at.data * data + at.noise * noise


def velocity_target(path: Path, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What a network that sees z_t should predict, (B, ...)."""
    at = coefficients(path, per_sample(t, data))
    return at.data_slope * data + at.noise_slope * noise


def score(path: Path, velocity: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """Gradient of the log density of z_t at times t (B,), 0 < t, that the velocity (B, ...) implies (equation 9)."""
    at = coefficients(path, per_sample(t, z))
    ratio = at.data / at.data_slope
    return (ratio * velocity - z) / (at.noise**2 - ratio * at.noise_slope * at.noise)


def per_sample(t: Tensor, like: Tensor) -> Tensor:
    """Times (B,) with as many axes as `like` (B, ...)."""
    return t.view(-1, *(1,) * (like.ndim - 1))
