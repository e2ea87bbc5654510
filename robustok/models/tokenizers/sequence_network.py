"""Encoder and decoder of tokenizers whose latents are a sequence, no grid: MAETok, SoftVQ and TiTok.

The encoder reads image patches and L learned latent tokens; what counts are its outputs at these. The decoder reads
mask tokens, one a place of the image, and the latents; what counts are its outputs at the mask tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..vit import PatchEmbed
from .latent_transformer import LatentTransformer


class SequenceEncoder(nn.Module):
    """Images (B, 3, H, W) -> outputs at the latent tokens (B, L, width). `shape` is that of its LatentTransformer."""

    def __init__(self, num_latents: int, *, patch_size: int, width: int, **shape: Any):
        super().__init__()
        self.patch_embed = PatchEmbed(patch_size, width)
        self.transformer = LatentTransformer(width=width, table=True, **shape)
        self.latent_tokens = nn.Parameter(torch.empty(1, num_latents, width))
        self.latent_positions = nn.Parameter(torch.empty(1, num_latents, width))
        for table in (self.latent_tokens, self.latent_positions):
            nn.init.trunc_normal_(table, std=0.02)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        nn.init.zeros_(self.patch_embed.proj.bias)

    def forward(self, images: Tensor, hidden: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
        """hidden: bool (B, P), the patches in whose place `mask_token` (1, 1, width) is seen; None: all are seen."""
        tokens = self.patch_embed(images)
        if hidden is not None:
            tokens = torch.where(hidden[..., None], mask_token.to(tokens.dtype), tokens)
        latents = (self.latent_tokens + self.latent_positions).expand(images.shape[0], -1, -1)
        return self.transformer(tokens, latents)[1]


class SequenceDecoder(nn.Module):
    """Latents (B, L, D) -> outputs (B, P, out) at mask tokens, one a place, row-major."""

    def __init__(self, latents: tuple[int, int], out: int, *, width: int, modulated: bool = False, **shape: Any):
        super().__init__()
        count, channels = latents
        self.project = nn.Linear(channels, width)
        self.transformer = LatentTransformer(width=width, modulated_by=channels if modulated else None, **shape)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.latent_positions = nn.Parameter(torch.empty(1, count, width))
        self.output = nn.Linear(width, out)
        for table in (self.mask_token, self.latent_positions):
            nn.init.trunc_normal_(table, std=0.02)
        for layer in (self.project, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor) -> Tensor:
        masks = self.mask_token.expand(z.shape[0], self.transformer.places, -1)
        return self.output(self.transformer(masks, self.project(z) + self.latent_positions, z)[0])
