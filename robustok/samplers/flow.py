"""Sampling along a velocity field, from noise or from noised latents (SDEdit, arXiv 2108.01073) to latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.random import NOISE, keyed_normal
from ..ops import Indices
from ..ops.indices import as_indices
from .interfaces import VelocityField
from .paths import interpolate
from .settings import MAX_GUIDANCE, check, check_seed, class_numbers, warn_of_null_class
from .solvers import Interval, dormand_prince, euler, euler_maruyama, heun

ODE_SOLVERS = {"euler": euler, "heun": heun, "dopri5": dormand_prince}
SOLVERS = (*ODE_SOLVERS, "sde")
MOST_STEPS = 10_000


@dataclass(frozen=True)
class FlowSettings:
    """How a velocity field is followed, and classifier-free guidance.

    Raises: UserError, a ValueError, for a setting out of its range.
    """

    steps: int  # of one size; for dopri5, which chooses its steps: the first it tries is 1 / steps of the way
    solver: str = "euler"  # "euler", "heun", "dopri5" (ordinary equation) or "sde" (Euler and Maruyama's)
    guidance_scale: float = 1.0  # s of u + s (c - u), from 0; 1 is no guidance
    guidance_interval: tuple[float, float] | None = None  # times (low, high) of guidance, 1 is noise; None: all

    def __post_init__(self):
        interval = (0.0, 1.0) if self.guidance_interval is None else tuple(self.guidance_interval)
        check(self.solver in SOLVERS, "solver", repr(self.solver), f"one of {', '.join(SOLVERS)}")
        whole = isinstance(self.steps, int) and not isinstance(self.steps, bool)
        check(whole and 1 <= self.steps <= MOST_STEPS, "steps", self.steps, f"a whole number from 1 to {MOST_STEPS}")
        scale = self.guidance_scale
        check(0 <= scale <= MAX_GUIDANCE, "guidance_scale", scale, f"a number from 0 to {MAX_GUIDANCE} (1: none)")
        times = len(interval) == 2 and 0 <= interval[0] <= interval[1] <= 1
        check(times, "guidance_interval", self.guidance_interval, "two times LOW,HIGH with 0 <= LOW <= HIGH <= 1")

    @property
    def interval(self) -> Interval:
        """The times at which guidance applies."""
        return Interval(*(self.guidance_interval or ()))

    @property
    def streams(self) -> int:
        """Images that go through the network for one: with guidance a conditional and an unconditional one."""
        return 1 if self.guidance_scale == 1 else 2


class FlowSampler:
    """Follows the velocity of a model, batch after batch with the same settings. All latents are on its own scale.

    compile: fuse the network with torch.compile, which takes a minute or two once.
    """

    def __init__(self, model: VelocityField, settings: FlowSettings, *, compile: bool = False):
        self.model, self.settings = model, settings
        self.device, self.streams = model.device, settings.streams
        self._velocity = torch.compile(model.velocity, dynamic=False) if compile else model.velocity
        warn_of_null_class(model, settings.guidance_scale)

    @torch.no_grad()
    def generate(
        self,
        classes: Indices,
        *,
        seed: int,
        sample_ids: Indices | None = None,
        keep_latents: Tensor | None = None,
        keep_ratio: float = 0.0,
    ) -> Tensor:
        """float32 latents (B, ...); arguments and errors as in FlowGenerator.generate."""
        classes = class_numbers(classes, self.model.num_classes)
        ids = torch.arange(len(classes)) if sample_ids is None else as_indices("sample_ids", sample_ids)
        check(ids.shape == classes.shape, "sample_ids", tuple(ids.shape), f"one for each class, {tuple(classes.shape)}")
        check_seed(seed)
        check(0 <= keep_ratio <= 1, "keep_ratio", keep_ratio, "a share in [0, 1]")
        ids = ids.to(self.device)
        z = self._noise(seed, ids, 0)
        start = 1.0
        if keep_latents is not None:
            self._check_latents("keep_latents", keep_latents, classes)
            if keep_ratio == 1:
                return keep_latents.to(self.device).float()
            kept = self.model.normalized(keep_latents.to(self.device)).double()
            start = 1.0 - keep_ratio
            z = interpolate(self.model.path, kept, z, torch.full((len(z),), start, dtype=z.dtype, device=z.device))
        return self.model.denormalized(self.follow(z, classes, start, lambda step: self._noise(seed, ids, 1 + step)))

    @torch.no_grad()
    def follow(self, z: Tensor, classes: Tensor, start: float = 1.0, noise=None) -> Tensor:
        """From z (B, ...) at time `start` to time 0, float32, on the network's own scale.

        Class C is the null class. noise: step -> standard normal numbers like z, which the solver "sde" needs. Raises
        ValueError for a start outside [0, 1], and for classes or latents that do not fit the model.
        """
        classes = class_numbers(classes, self.model.num_classes + 1)
        self._check_latents("latents", z, classes)
        check(0 <= start <= 1, "start", start, "a time in [0, 1]")
        if start == 0:
            return z.to(self.device).float()
        s, classes = self.settings, classes.to(self.device)
        null = torch.full_like(classes, self.model.num_classes)

        def field(at: Tensor, t: Tensor, guided: bool) -> Tensor:
            at, t = at.float(), t.float()
            if not guided or self.streams == 1:
                return self._velocity(at, t, classes).double()
            both = self._velocity(torch.cat([at, at]), torch.cat([t, t]), torch.cat([classes, null])).double()
            conditional, unconditional = both.chunk(2)
            return unconditional + s.guidance_scale * (conditional - unconditional)

        z = z.to(self.device).double()
        if s.solver == "sde":
            return euler_maruyama(field, z, start, s.steps, s.interval, self.model.path, noise).float()
        return ODE_SOLVERS[s.solver](field, z, start, s.steps, s.interval).float()

    def _noise(self, seed: int, ids: Tensor, position: int) -> Tensor:
        return keyed_normal(seed, NOISE, ids, self.model.latent_shape, position).double()

    def _check_latents(self, name: str, latents: Tensor, classes: Tensor) -> None:
        expected = [(len(classes), *shape) for shape in self.model.latent_shapes]
        wanted = " or ".join(map(str, expected))
        check(tuple(latents.shape) in expected, name, tuple(latents.shape), f"{wanted}, which the generator makes")
