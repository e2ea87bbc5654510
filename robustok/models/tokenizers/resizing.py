"""Tokenizers at another image size than that of their file: what depends on the size is resampled."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...checkpoints.checkpoint import Checkpoint, State
from ...core.sizes import Size, area
from ...model_configs import TokenizerConfig
from ..vit import resample_positions
from .vit_tokenizer import grids

TABLE = "pos_embed"  # of a ViT: a row for the class token, then one for each patch
LATENTS = "encoder.latent_tokens"


def resize_config(checkpoint: Checkpoint, image_size: Size) -> Checkpoint:
    """Of a tokenizer without tables of positions (convolutions): its weights take any size."""
    return replace(checkpoint, config=replace(checkpoint.config, image_size=image_size))


def resize_vit(checkpoint: Checkpoint, image_size: Size) -> Checkpoint:
    """Of a ViT tokenizer, in patches of the same size.

    The position tables of both ViTs and of the frozen teacher, and the latent tokens, of which there is one a place,
    are resampled by `resample_positions`; everything else stays. num_latents, where it was given, changes with the
    number of patches. Raises: ValueError for a size that is no whole number of patches, and for residual codes.
    """
    config: TokenizerConfig = checkpoint.config
    if config.scales is not None:
        raise ValueError(f"residual codes of {len(config.scales)} scales are those of one size of images")
    old_patches, old_latents = grids(config)
    count = config.num_latents
    if count is not None:
        count = round(count * area(image_size) / area(config.image_size))
    config = replace(config, image_size=image_size, num_latents=count)
    patches, latents = grids(config)

    def tables(state: State) -> State:
        found = {name: tensor for name, tensor in state.items() if name.split(".")[-1] == TABLE}
        return state | {name: resample_positions(table, patches, old=old_patches) for name, table in found.items()}

    def resized(state: State) -> State:
        return tables(state) | {LATENTS: _latent_tokens(state[LATENTS], config.codebooks, latents, old_latents)}

    return replace(
        checkpoint,
        config=config,
        weights={name: resized(state) for name, state in checkpoint.weights.items()},
        teacher=tables(checkpoint.teacher),
        upstream={},  # its arguments are those of the published size
    )


def _latent_tokens(tokens: Tensor, groups: int, grid: Size, old: Size) -> Tensor:
    """(1, groups * L, width) of another grid."""
    parts = (resample_positions(group, grid, prefix=0, old=old) for group in tokens.chunk(groups, 1))
    return torch.cat([*parts], 1)
