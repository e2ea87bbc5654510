"""Solvers that take latents from time t0 down to 0 (data) along the velocity of a field.

Latents z are float64 (B, ...). A field is `field(z, t, guided) -> velocity` with times t (B,) float64; a solver says
for each step whether guidance applies, which `Interval` decides. Every image is solved by itself: what stands beside it
in the batch changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..core.errors import RunError
from .paths import Path, per_sample, score

Field = Callable[[Tensor, Tensor, bool], Tensor]
SDE_LAST = 0.04  # time of the last step of `euler_maruyama`, which adds no noise

# Dormand and Prince (1980): stages and weights of order 5, and what they differ by from those of order 4.
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
NODES = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
ERRORS = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
RELATIVE, ABSOLUTE = 1e-5, 1e-6  # error allowed a step
SAFETY, SLOWEST, FASTEST = 0.9, 0.2, 10.0  # of the next step's size
MOST_TRIES = 10_000


@dataclass(frozen=True)
class Interval:
    """The times at which guidance applies, both ends included."""

    low: float = 0.0
    high: float = 1.0

    def __contains__(self, t: float) -> bool:
        return self.low <= t <= self.high


def euler(field: Field, z: Tensor, start: float, steps: int, interval: Interval) -> Tensor:
    """Steps of one size, each along the velocity at its beginning."""
    times = torch.linspace(start, 0, steps + 1, dtype=torch.float64).tolist()
    for now, then in pairwise(times):
        z = z + (then - now) * field(z, _all(now, z), now in interval)
    return z


def heun(field: Field, z: Tensor, start: float, steps: int, interval: Interval) -> Tensor:
    """Steps of one size, each along the mean of the velocities at both ends; the last step is Euler's.

    Where a step begins decides about guidance at both ends.
    """
    times = torch.linspace(start, 0, steps + 1, dtype=torch.float64).tolist()
    for now, then in pairwise(times):
        guided, size = now in interval, then - now
        slope = field(z, _all(now, z), guided)
        if then > 0:
            slope = (slope + field(z + size * slope, _all(then, z), guided)) / 2
        z = z + size * slope
    return z


def dormand_prince(field: Field, z: Tensor, start: float, steps: int, interval: Interval) -> Tensor:
    """Steps of each image's own size: its estimated error stays within RELATIVE and ABSOLUTE, as a root mean square.

    The first step that is tried has the size start / steps. Steps end where guidance begins or ends.
    Raises RunError where the velocity is not finite.
    """
    size = _all(start / steps, z)
    bounds = [start, *sorted({t for t in (interval.low, interval.high) if 0 < t < start}, reverse=True), 0.0]
    for begin, end in pairwise(bounds):
        z, size = _adaptive(field, z, begin, end, size, (begin + end) / 2 in interval)
    return z


def _adaptive(field: Field, z: Tensor, begin: float, end: float, size: Tensor, guided: bool) -> tuple[Tensor, Tensor]:
    """(z at `end`, sizes (B,) of the next steps), from z at `begin`."""
    t = _all(begin, z)
    slope = field(z, t, guided)
    for _ in range(MOST_TRIES):
        left = t - end
        if not bool((left > 0).any()):
            return z, size
        step = torch.minimum(size, left)
        slopes = [slope]
        for stage, node in zip(STAGES[1:], NODES[1:], strict=True):
            there = z - per_sample(step, z) * _weighted(stage, slopes)
            slopes.append(field(there, t - node * step, guided))
        error = per_sample(step, z) * _weighted(ERRORS, slopes)
        allowed = ABSOLUTE + RELATIVE * torch.maximum(z.abs(), there.abs())
        ratio = (error / allowed).flatten(1).square().mean(1).sqrt()
        if not bool(ratio.isfinite().all()):
            break
        accepted = ratio <= 1
        keep = per_sample(accepted, z)
        z, slope = torch.where(keep, there, z), torch.where(keep, slopes[-1], slope)
        t = torch.where(accepted, torch.where(step == left, end, t - step), t)
        factor = (SAFETY * ratio.clamp(min=1e-10) ** -0.2).clamp(SLOWEST, FASTEST)
        next_size = step * torch.where(accepted, factor.clamp(min=1), factor)
        size = torch.where(accepted & (step < size), size, next_size)  # a step cut short at `end` says nothing of size
    raise RunError(
        f"dopri5 does not get below t = {t.max().item():.4g}: the velocity is not finite, or changes too fast; look at "
        "the generator's weights, or use the solver euler or heun"
    )


def _weighted(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    return sum(weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight)


def euler_maruyama(
    field: Field,
    z: Tensor,
    start: float,
    steps: int,
    interval: Interval,
    path: Path,
    noise: Callable[[int], Tensor],
) -> Tensor:
    """The reverse SDE with diffusion 2t (SiT, section 2.3), and a last step without noise from SDE_LAST to 0.

    noise: step -> standard normal numbers like z, for step 0, 1, ...
    """
    times = torch.linspace(start, SDE_LAST, steps, dtype=torch.float64).tolist() if start > SDE_LAST else [start]
    for step, (now, then) in enumerate(zip(times, [*times[1:], 0.0], strict=True)):
        t = _all(now, z)
        velocity = field(z, t, now in interval)
        drift = velocity - now * score(path, velocity, z, t) if now > 0 else velocity
        z = z + (then - now) * drift
        if then > 0:
            z = z + (2 * now * (now - then)) ** 0.5 * noise(step)
    return z


def _all(t: float, z: Tensor) -> Tensor:
    """The time t for every image."""
    return torch.full((len(z),), t, dtype=torch.float64, device=z.device)
