"""How tokens are drawn from a network's logits."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.random import MAX_SEED
from ..ops import Indices
from ..ops.indices import as_indices
from .interfaces import GuidedNetwork

MAX_GUIDANCE = 1000  # far beyond any use; logits multiplied by much more are no numbers any longer


@dataclass(frozen=True)
class SamplingSettings:
    """Classifier-free guidance, temperature and filters of the vocabulary.

    Raises: UserError, a ValueError, for a setting out of its range.
    """

    guidance_scale: float  # s, from 0; 1 is no guidance
    guidance_power: float | None = None  # p of the ramp from 1 to s, see `guidance_ramp`; None keeps s constant
    temperature: float = 1.0  # from 0; 0: the likeliest code always
    top_k: int = 0  # draw from the k likeliest codes; 0: from all
    top_p: float = 1.0  # draw from the fewest likeliest codes whose probability reaches this share in (0, 1]

    def __post_init__(self):
        power = self.guidance_power
        scale = self.guidance_scale
        check(0 <= scale <= MAX_GUIDANCE, "guidance_scale", scale, f"a number from 0 to {MAX_GUIDANCE} (1: none)")
        check(power is None or 0 < power < math.inf, "guidance_power", power, "a positive number or None")
        check(0 <= self.temperature < math.inf, "temperature", self.temperature, "a number from 0 (the likeliest code)")
        check(self.top_k >= 0, "top_k", self.top_k, "a number from 0 (all codes)")
        check(0 < self.top_p <= 1, "top_p", self.top_p, "a share in (0, 1]")

    @property
    def divisor(self) -> float:
        """What logits are divided by."""
        return self.temperature or 1.0

    @property
    def kept(self) -> int:
        """How many of the likeliest codes are drawn from: 1 at temperature 0, which is arg-max; 0: all."""
        return self.top_k if self.temperature else 1

    @property
    def streams(self) -> int:
        """Sequences an image goes through the network as: with guidance a conditional and an unconditional one."""
        return 1 if self.guidance_scale == 1 else 2


def guidance_ramp(scale: float, power: float | None, length: int) -> Tensor:
    """Guidance scale at every step, float32 (length,): 1 + (s - 1) (1 - cos(pi (t / L)^p)) / 2, or s (section 5)."""
    if power is None:
        return torch.full((length,), float(scale), dtype=torch.float32)
    shares = [(1 - math.cos(math.pi * (step / length) ** power)) / 2 for step in range(length)]
    return torch.tensor([1 + (scale - 1) * share for share in shares], dtype=torch.float32)


def warn_of_null_class(model: GuidedNetwork, scale: float) -> None:
    """Warns of guidance on a network that was trained without class dropout."""
    if scale != 1 and not model.knows_null_class:
        warnings.warn(
            f"guidance_scale = {scale}, but this generator was trained without class dropout: what it gives for no "
            "class is arbitrary; use guidance_scale 1",
            stacklevel=4,
        )


def check_seed(seed: int) -> None:
    """Raises UserError, a ValueError, for a seed that no command takes."""
    check(0 <= seed <= MAX_SEED, "seed", seed, f"a whole number from 0 to {MAX_SEED}")


def class_numbers(classes: Indices, count: int) -> Tensor:
    """Classes (B,), one for each image, each in [0, count): int64."""
    classes = as_indices("classes", classes, count)
    check(classes.ndim == 1 and len(classes) > 0, "classes", tuple(classes.shape), "one class for each image, (B,)")
    return classes


def check(holds: bool | Tensor, name: str, found: object, expected: str) -> None:
    """Raises UserError, a ValueError, with what was found and what was expected, unless the condition holds."""
    if not holds:
        raise UserError(f"{name}: found {found}, expected {expected}")
