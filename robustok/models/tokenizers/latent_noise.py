"""Noise on continuous latents in training, which makes a decoder robust to the errors of a generator."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...core.random import NOISE, keyed_normal, keyed_words, to_uniform


class LatentNoise(NamedTuple):
    """Noise of one step. Every image has a strength t of its own, uniform in [0, strength].

    kind: "gaussian", z + t e; "interpolate", (1 - t) z + t e; e is standard normal on the scale of the latents.
    num_images: how many of the batch's first images get noise. seed: of the step. sample_ids: int64 (B,), who each
    image is: what is drawn for it depends on seed and id alone.
    """

    kind: Literal["gaussian", "interpolate"]
    strength: float
    num_images: int
    seed: int
    sample_ids: Tensor


def add_noise(z: Tensor, noise: LatentNoise) -> Tensor:
    """Latents z (B, L, D) with noise on the first images; differentiable in z."""
    count = min(noise.num_images, len(z))
    if count == 0 or noise.strength == 0:
        return z
    ids, clean = noise.sample_ids[:count], z[:count]
    e = keyed_normal(noise.seed, NOISE, ids, tuple(z.shape[1:]))
    t = noise.strength * to_uniform(keyed_words(noise.seed, NOISE, ids, 1)[0])[:, None, None]
    kept = 1 if noise.kind == "gaussian" else 1 - t
    return torch.cat([kept * clean + t * e, z[count:]])
