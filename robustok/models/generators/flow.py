"""What every flow generator can do: learn a velocity, follow it with guidance, and start from noised latents."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.random import NOISE, keyed_normal, keyed_words, to_uniform
from ...ops import Indices
from ...samplers.flow import ODE_SOLVERS, FlowSampler, FlowSettings
from ...samplers.paths import interpolate, velocity_target
from ...samplers.settings import check
from ..saving import Pretrained
from .classes import drop_classes

# Positions of the NOISE stream in training, where 0 is that of dropped classes; sampling uses its own seeds and counts
# positions from 0.
TIME, LATENTS = 1, 2


class FlowGenerator(Pretrained):
    """A generator of latents (L, D) for C classes; class C is the null class. Time 0 is data, time 1 noise.

    A subclass has `velocity(z_t, t, classes)` and a config with num_classes, num_latents, latent_width, latent_mean,
    latent_std, path, times and class_dropout.
    """

    def __init__(self, config: Any):
        super().__init__()
        _check_sizes(config)
        self.config, self.num_classes, self.path = config, config.num_classes, config.path
        self.latent_shape = (config.num_latents, config.latent_width)
        self.latent_shapes: tuple[tuple[int, ...], ...] = (self.latent_shape,)
        self.knows_null_class = config.class_dropout > 0

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def velocity(self, z_t: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        """The network's own output, float32, shaped as z_t; differentiable.

        z_t: (B, L, D) on the network's own scale (see `normalized`). t: (B,) in [0, 1]. classes: int64 (B,), 0..C.
        """
        raise NotImplementedError

    def normalized(self, latents: Tensor) -> Tensor:
        """Latents (B, L, D) of the tokenizer -> on the network's own scale: (latents - mean) / std, float32."""
        if self.config.latent_mean is None:
            return latents.float()
        return (latents.float() - self._row("latent_mean", latents)) / self._row("latent_std", latents)

    def denormalized(self, z: Tensor) -> Tensor:
        """The way back from `normalized`."""
        if self.config.latent_mean is None:
            return z
        return z * self._row("latent_std", z) + self._row("latent_mean", z)

    def _row(self, name: str, like: Tensor) -> Tensor:
        return torch.tensor(getattr(self.config, name), device=like.device)

    def loss(
        self, latents: Tensor, classes: Tensor, *, seed: int, sample_ids: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the velocity at random times.

        Args:
            latents: (B, L, D) of the tokenizer.
            classes: int64 (B,), 0..C-1; with probability config.class_dropout the null class takes their place.
            seed: of the step; times, noise and dropped classes are pure functions of it and the sample id.
            sample_ids: int64 (B,), who each image is.

        Returns: (mean over the batch, float32, to differentiate; terms to log).
        """
        t = draw_times(self.config.times, self.path, seed, sample_ids)
        noise = keyed_normal(seed, NOISE, sample_ids, self.latent_shape, LATENTS)
        classes = drop_classes(classes, self.num_classes, self.config.class_dropout, seed, sample_ids)
        loss = self.velocity_errors(self.normalized(latents), noise, t, classes).mean()
        return loss, {"loss": loss}

    def velocity_errors(self, z: Tensor, noise: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        """Mean squared error for each image (B,) between the velocity at time t and that of the path.

        z, noise: (B, L, D) on the network's own scale. t: (B,). classes: int64 (B,), 0..C.
        """
        found = self.velocity(interpolate(self.path, z, noise, t), t, classes)
        return (found - velocity_target(self.path, z, noise, t)).square().flatten(1).mean(1)

    def sampler(self, *, compile: bool = False, choices: Path | None = None, **settings: Any) -> FlowSampler:
        """A sampler of these settings, those of FlowSettings. Raises ValueError for one out of its range.

        choices: for samplers that choose among kernels; this one does not.
        """
        return FlowSampler(self, FlowSettings(**settings), compile=compile)

    def generate(
        self,
        classes: Indices,
        *,
        seed: int,
        sample_ids: Indices | None = None,
        steps: int,
        solver: str,
        guidance_scale: float,
        guidance_interval: tuple[float, float] | None = None,
        keep_latents: Tensor | None = None,
        keep_ratio: float = 0.0,
    ) -> Tensor:
        """Samples latents for each class: float32 (B, L, D) on the tokenizer's scale, on the device of the weights.

        Args:
            classes: (B,), 0..C-1; a tensor, NumPy array or list of integers of any width.
            seed: the latents are a pure function of weights, class, seed and sample id.
            sample_ids: int64 (B,), who each image is; None means 0..B-1.
            steps, solver, guidance_scale, guidance_interval: see FlowSettings.
            keep_latents: (B, L, D) on the tokenizer's scale. Sampling starts from them, noised to time 1 - keep_ratio
                (the preservation ratio sigma, METHOD.md section 6): 1 gives them back, 0 is pure generation.

        Raises: ValueError for an argument out of its range or of the wrong shape.
        """
        sampler = FlowSampler(self, FlowSettings(steps, solver, guidance_scale, guidance_interval))
        return sampler.generate(
            classes, seed=seed, sample_ids=sample_ids, keep_latents=keep_latents, keep_ratio=keep_ratio
        )

    def integrate(
        self,
        z: Tensor,
        classes: Tensor,
        *,
        start: float | None = None,
        steps: int,
        solver: str = "euler",
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] | None = None,
    ) -> Tensor:
        """Solves dz/dt = velocity from z (B, L, D) at time `start` (None: 1, pure noise) to 0; draws nothing.

        Both ends are on the network's own scale, float32. classes: int64 (B,), 0..C. Other arguments as `generate`.
        """
        check(solver in ODE_SOLVERS, "solver", repr(solver), f"one of {', '.join(ODE_SOLVERS)}")
        sampler = FlowSampler(self, FlowSettings(steps, solver, guidance_scale, guidance_interval))
        return sampler.follow(z, classes, 1.0 if start is None else start)


def draw_times(kind: str, path: str, seed: int, sample_ids: Tensor) -> Tensor:
    """Times (B,) in (0, 1) of a training step, by (seed, sample id), see `time_of`."""
    if kind == "uniform":
        return time_of(kind, path, to_uniform(keyed_words(seed, NOISE, sample_ids, TIME)[0]))
    return time_of(kind, path, keyed_normal(seed, NOISE, sample_ids, (), TIME))


def time_of(kind: str, path: str, draw: Tensor) -> Tensor:
    """The time of a draw: itself where times are uniform; else where the path's ratio of noise to data is exp(draw)."""
    if kind == "uniform":
        return draw
    ratio = draw.exp()
    return ratio / (1 + ratio) if path == "linear" else 2 / math.pi * ratio.atan()


def _check_sizes(config: Any) -> None:
    for name in ("num_classes", "num_latents", "latent_width"):
        value = getattr(config, name)
        if value is None or value < 1:
            raise ValueError(f"{name}: found {value}, expected a positive number (from the tokenizer or the data)")
    for name in ("latent_mean", "latent_std"):
        values = getattr(config, name)
        if values is not None and len(values) != config.latent_width:
            raise ValueError(f"{name}: found {len(values)} numbers, expected latent_width = {config.latent_width}")
    if (config.latent_mean is None) != (config.latent_std is None) or min(config.latent_std or (1,)) <= 0:
        raise ValueError("latent_mean and latent_std: expected both or neither, and standard deviations above 0")
