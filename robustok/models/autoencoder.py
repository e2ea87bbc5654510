"""A tokenizer behind the interface of diffusers' autoencoders, for code that expects one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.sizes import Size, sides
from ..ops.grid import from_grid, to_grid
from .interfaces import LoadedTokenizer, is_discrete
from .registry import family_of


@dataclass(frozen=True)
class AutoencoderConfig:
    """What users of an autoencoder read off its `config`; generators work on (latent - shift) * scaling."""

    latent_channels: int
    sample_size: Size  # pixels along one side, or (height, width)
    scaling_factor: float
    shift_factor: float
    in_channels: int = 3
    out_channels: int = 3


class PointDistribution(NamedTuple):
    """The distribution of latents that are known: all of it lies at the mean, float (B, C, H, W)."""

    mean: Tensor

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """The mean: these tokenizers draw nothing."""
        return self.mean


class AutoencoderLatents(NamedTuple):
    """What `encode` gives, under both names that autoencoders have for it."""

    latent_dist: PointDistribution
    latents: Tensor  # (B, C, H, W)


class AutoencoderImages(NamedTuple):
    """What `decode` gives."""

    sample: Tensor  # (B, 3, H, W), not clamped


class GridAutoencoder(nn.Module):
    """A tokenizer whose latents are a grid, as an autoencoder with latents (B, C, H, W). Made by `as_autoencoder`."""

    def __init__(self, tokenizer: LoadedTokenizer):
        super().__init__()
        self.tokenizer, self.grid = tokenizer, tokenizer.grid
        known = tokenizer.config
        mean, std = getattr(known, "latent_mean", 0.0), getattr(known, "latent_std", 1.0)
        self.config = AutoencoderConfig(tokenizer.latent_shape[1], tokenizer.image_size, 1.0 / std, mean)

    @property
    def device(self) -> torch.device:
        return self.tokenizer.device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderLatents | tuple[Any]:
        """Images x (B, 3, H, W) in [-1, 1] -> latents (B, C, H, W), float32, before any codebook; differentiable.

        return_dict False: a tuple of the latents of a tokenizer with codes, else of their distribution.
        """
        z = to_grid(self.tokenizer.encode(x), sides(self.grid)[0])
        if not return_dict:
            return (z if is_discrete(self.tokenizer) else PointDistribution(z),)
        return AutoencoderLatents(PointDistribution(z), z)

    def decode(
        self, z: Tensor, return_dict: bool = True, force_not_quantize: bool = False
    ) -> AutoencoderImages | tuple:
        """Latents z (B, C, H, W) -> images (B, 3, H, W), not clamped.

        A tokenizer with codes takes the code of each latent first, through which no gradient passes, unless
        force_not_quantize says that they are codes already. Raises: ValueError for latents of another shape.
        """
        shape = (self.config.latent_channels, *sides(self.grid))
        if z.ndim != 4 or z.shape[1:] != shape:
            raise ValueError(f"z must be (B, {', '.join(map(str, shape))}), found {tuple(z.shape)}")
        rows = from_grid(z)
        if is_discrete(self.tokenizer) and not force_not_quantize:
            rows = self.tokenizer.lookup(self.tokenizer.quantizer.nearest(rows))
        images = self.tokenizer.decode(rows)
        return AutoencoderImages(images) if return_dict else (images,)

    def forward(self, sample: Tensor, return_dict: bool = True) -> AutoencoderImages | tuple:
        """Images -> images: `decode` of `encode`."""
        return self.decode(self.encode(sample).latents, return_dict)


def as_autoencoder(tokenizer: LoadedTokenizer) -> GridAutoencoder:
    """A tokenizer with `encode(x).latent_dist`, `encode(x).latents`, `decode(z).sample` and `config.scaling_factor`.

    It shares the tokenizer's weights. Latents (B, C, H, W) are those of the tokenizer's grid, row-major; with codes
    (as diffusers' VQModel) they are what the encoder gives, and `decode` takes their codes.

    Raises: UserError for a tokenizer whose latents are a sequence without a place in the image.
    """
    if getattr(tokenizer, "grid", None) is None:
        length, width = tokenizer.latent_shape
        raise UserError(
            f"the latents of a {family_of(tokenizer).kind} are a sequence of {length} x {width} and no grid (C, H, W), "
            "as autoencoders have: use its own encode and decode"
        )
    return GridAutoencoder(tokenizer)
