"""SiT and LightningDiT: a transformer that predicts the velocity of latents, a sequence or a grid of patches."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ...model_configs import SiTConfig
from .classes import ClassEmbedding
from .flow import FlowGenerator
from .sit_layers import (
    GridPatches,
    SiTBlock,
    TimeEmbedding,
    VelocityHead,
    grid_positions,
    latent_grid,
    rotations,
    sequence_positions,
)


class SiT(FlowGenerator):
    """Parameters carry the published names. `generate`, `integrate`, `sampler`, `loss`: see FlowGenerator.

    config: SiTConfig with num_classes, num_latents and latent_width given. Raises ValueError where one is missing, and
    for sizes that do not fit each other. A fresh model starts with every block as the identity (adaLN-zero).
    """

    kind = "sit"

    def __init__(self, config: SiTConfig):
        super().__init__(config)
        _check(config)
        width = config.width
        self.grid = latent_grid(config) if config.grid else None  # rows and columns of latents
        if self.grid is not None:
            self.x_embedder: nn.Module = GridPatches(config)
            self.latent_shapes = (self.latent_shape, (config.latent_width, *self.grid))
            positions = grid_positions(*(side // config.patch_size for side in self.grid), width)
        else:
            self.x_embedder = nn.Linear(config.latent_width, width)
            positions = sequence_positions(config.num_latents, width)
        self.register_buffer("pos_embed", positions)
        self.register_buffer("rotation", rotations(config) if config.rope else None)
        self.t_embedder, self.y_embedder = TimeEmbedding(width), ClassEmbedding(config.num_classes, width)
        self.blocks = nn.ModuleList(SiTBlock(config) for _ in range(config.depth))
        self.final_layer = VelocityHead(config, config.patch_size**2 * config.latent_width)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        if self.grid is not None:
            nn.init.xavier_uniform_(self.x_embedder.proj.weight.view(self.config.width, -1))
            nn.init.zeros_(self.x_embedder.proj.bias)
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2], self.y_embedder.embedding_table):
            nn.init.normal_(layer.weight, std=0.02)
        for part in (*self.blocks, self.final_layer):
            nn.init.zeros_(part.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def velocity(self, z_t: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        """As FlowGenerator.velocity; a model of a grid also takes z_t as (B, D, H, W)."""
        x = self.x_embedder(self._as_input(z_t.to(self.pos_embed.dtype))) + self.pos_embed
        condition = (self.t_embedder(t) + self.y_embedder(classes))[:, None]
        for block in self.blocks:
            x = block(x, condition, self.rotation)
        return self._as_output(self.final_layer(x, condition), z_t).float()

    def forward(self, z_t: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        """The same as `velocity`."""
        return self.velocity(z_t, t, classes)

    def _as_input(self, z: Tensor) -> Tensor:
        if self.grid is None or z.ndim == 4:
            return z
        return z.mT.unflatten(2, self.grid)

    def _as_output(self, x: Tensor, like: Tensor) -> Tensor:
        """(B, N, outputs) -> velocities shaped as `like`. A patch's outputs are in the order row, column, channel."""
        if self.grid is None:
            return x
        size = self.config.patch_size
        patches = [side // size for side in self.grid]
        grid = x.unflatten(2, (size, size, -1)).unflatten(1, patches)  # (B, h, w, row, column, D)
        if like.ndim == 3:
            return grid.transpose(2, 3).reshape(like.shape)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(like.shape)


def _check(config: SiTConfig) -> None:
    if config.width % config.heads:
        raise ValueError(f"heads must divide width, found width {config.width} and heads {config.heads}")
    if config.width % (4 if config.grid else 2):
        raise ValueError(f"width: found {config.width}, expected a multiple of {4 if config.grid else 2} (positions)")
    turned = 4 if config.grid else 2
    if config.rope and config.width // config.heads % turned:
        raise ValueError(f"rope turns pairs of channels: expected heads of a multiple of {turned} channels")
    grid = latent_grid(config)
    if config.grid and (math.prod(grid) != config.num_latents or any(side % config.patch_size for side in grid)):
        shape = "a square grid" if config.rows is None else f"a grid of {config.rows} rows"
        raise ValueError(
            f"num_latents: found {config.num_latents}, expected {shape} whose sides patch_size = {config.patch_size} "
            "divides"
        )
    if not config.grid and config.rows is not None:
        raise ValueError(f"rows: found {config.rows}, expected none for a sequence of latents (grid: false)")
    if not config.grid and config.patch_size != 1:
        raise ValueError(f"patch_size: found {config.patch_size}, expected 1 for a sequence of latents (grid: false)")
