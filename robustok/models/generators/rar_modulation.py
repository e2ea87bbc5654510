"""Shift, scale and gate of RAR's blocks while sampling, computed once a class instead of once a token.

They depend on the class and the place alone, so they are a table: one large product computes it for a block of places.
The affine part of the norms is folded in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...samplers.interfaces import take
from .rar_network import PREFIX, RARNetwork

# Largest table, on a GPU and elsewhere; a larger one is computed in blocks of places. That of the largest published
# network has all places of 8 classes on a GPU, and 8 classes are those of a batch of images in the order of classes.
TABLE_BYTES = {"cpu": 256 * 2**20, "cuda": 2 * 2**30}


class Modulation(NamedTuple):
    """What R rows are modulated with."""

    parts: Sequence[Tensor] | Tensor  # (parts, R, width); with `picked` each part is the rows (U, width) of a table
    picked: Tensor | None = None  # int64 (R): the row of the table that each has

    def of(self, rows: Tensor) -> Modulation:
        """That of some of the rows."""
        return Modulation(self.parts[:, rows]) if self.picked is None else self._replace(picked=self.picked[rows])

    def part(self, number: int) -> Tensor:
        """(R, width)."""
        part = self.parts[number]
        return part if self.picked is None else part.index_select(0, self.picked)


class ModulationTable:
    """Shift, scale and gate of every branch for up to `capacity` classes; the table holds a block of places."""

    def __init__(self, network: RARNetwork, capacity: int):
        self.network, self.capacity = network, capacity
        like, parts = network.cls_token, 6 * len(network.blocks) + 2
        place_bytes = parts * capacity * like.shape[-1] * like.element_size()
        most = TABLE_BYTES["cuda" if like.is_cuda else "cpu"] // place_bytes
        self.block = min(network.num_tokens + 1, max(PREFIX, most))
        self.table = like.new_zeros(self.block, parts, capacity, like.shape[-1])
        self.condition = like.new_zeros(capacity, like.shape[-1])  # a captured graph reads it where it is

    def start(self, classes: Tensor) -> None:
        """Takes up to `capacity` classes (U,); row u of the table belongs to the u-th."""
        self.count = len(classes)
        self.condition[: self.count] = self.network.condition(classes)
        self.prepare(0)

    def prepare(self, place: int) -> None:
        """Computes the next block of places, if `place` is its first one."""
        if place % self.block == 0:
            places = self.network.timesteps_embeddings[0, place : place + self.block]
            values = self._compute(self.condition[: self.count] + places[:, None])
            self.table[: len(places), :, : self.count] = values.movedim(2, 1)

    def at(self, place: int | Tensor, rows: Tensor, is_looked_up: bool) -> Modulation:
        """That of one place, for S sequences whose classes are rows (S,) of the table.

        is_looked_up: whether those who use it find the rows in the table, which is then not copied.
        """
        if is_looked_up:
            return self._looked_up(place % self.block, rows)
        return Modulation(take(self.table, place % self.block).index_select(1, rows))

    def of(self, places: Tensor, rows: Tensor, is_looked_up: bool) -> Modulation:
        """That of R pairs of a place and a row; computed again where the table lacks some places."""
        if self.block > self.network.num_tokens:
            if is_looked_up:
                return self._looked_up(places, rows)
            return Modulation(self.table[places, :, rows].movedim(1, 0))
        condition = self.condition[rows] + self.network.timesteps_embeddings[0, places]
        return Modulation(self._compute(condition).movedim(1, 0))

    def _looked_up(self, place: int | Tensor, rows: Tensor) -> Modulation:
        parts, flat = self.table.shape[1], self.table.flatten(0, 2)
        views = [flat[part * self.capacity :] for part in range(parts)]
        return Modulation(views, place * parts * self.capacity + rows)

    def _compute(self, condition: Tensor) -> Tensor:
        """(..., width) -> (..., parts, width): six parts a block (shift, scale, gate twice), then shift and scale."""
        condition, parts = F.silu(condition), []
        for block in self.network.blocks:
            shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation[1](condition).chunk(6, dim=-1)
            parts += _folded(block.norm1, shift1, scale1), gate1, _folded(block.norm2, shift2, scale2), gate2
        scale, shift = self.network.adaln_before_head.adaLN_modulation[1](condition).chunk(2, dim=-1)
        parts += shift, 1 + scale
        return torch.cat(parts, -1).unflatten(-1, (-1, condition.shape[-1]))


def _folded(norm: torch.nn.LayerNorm, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and factor, side by side, that do the work of the affine norm as well: (x w + b)(1 + scale) + shift."""
    factor = 1 + scale
    return torch.cat([torch.addcmul(shift, factor, norm.bias), factor * norm.weight], -1)
