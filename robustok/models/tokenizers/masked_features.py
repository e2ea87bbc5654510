"""Masked training of MAETok (arXiv 2502.03444, section 3.2): from images with hidden patches, shallow decoders predict
features of the whole ones, so that the latents learn what an image shows and not its pixels alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...core.random import MASK, keyed_words


class MaskedFeatures(nn.Module):
    """The token that stands for hidden patches, and a decoder for each target. Only training uses it."""

    def __init__(self, width: int, decoders: Mapping[str, nn.Module]):
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.decoders = nn.ModuleDict(decoders)

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        """Latents (B, L, D) -> predictions (B, P, F) by target."""
        return {name: decoder(z) for name, decoder in self.decoders.items()}


def hidden_patches(sample_ids: Tensor, patches: int, shares: tuple[float, float], seed: int) -> Tensor:
    """Which patches are hidden, bool (B, patches).

    An image's share is uniform in `shares`, and so many patches are drawn, by (seed, sample id) alone.
    sample_ids: int64 (B,).
    """
    places = torch.arange(patches + 1, device=sample_ids.device)
    words = keyed_words(seed, MASK, sample_ids[:, None], places)[0]  # the last one draws the share
    low, high = shares
    share = low + (high - low) * (words[:, -1:].double() / 2**32)
    rank = words[:, :-1].argsort(dim=1, stable=True).argsort(dim=1)
    return rank < (share * patches).round()


def masked_loss(prediction: Tensor, target: Tensor, hidden: Tensor | None) -> Tensor:
    """Mean squared error of (B, P, F) over the hidden patches, bool (B, P); None: over all."""
    error = (prediction.float() - target).square().mean(-1)
    return error.mean() if hidden is None else (error * hidden).sum() / hidden.sum().clamp(min=1)
