"""RAR one place at a time: a static key/value cache, and modulation computed once per class instead of per token.

The modulation of a block depends on the class and the place alone, so it is a table, built by one tall product for a
block of places; the affine part of the norms is folded into it. The first two places depend on the class alone: they
go through once a class, not once an image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops.decode_attention import decode_attention
from .rar_layers import NORM_EPS

if TYPE_CHECKING:
    from .rar import RAR

TABLE_BYTES = 256 * 2**20  # largest modulation table; a larger one is built in blocks of places


class Modulation:
    """Shift, scale and gate of every branch, for some classes and a block of places."""

    def __init__(self, model: RAR, classes: Tensor):
        self.model = model
        self.condition = model.condition(classes)  # (U, width)
        parts = 6 * len(model.blocks) + 2
        width = self.condition.shape[1]
        place_bytes = parts * self.condition.numel() * self.condition.element_size()
        self.block = min(model.num_tokens + 1, max(2, TABLE_BYTES // place_bytes))
        self.table = self.condition.new_empty(self.block, parts, len(classes), width)

    def fill(self, start: int) -> None:
        """Computes the places from `start` on. Row: shift, scale, gate of both branches a block, then shift, scale."""
        places = self.model.timesteps_embeddings[0, start : start + self.block]
        condition = F.silu(self.condition + places[:, None])  # (places, U, width)
        table = self.table[: len(places)].split([6] * len(self.model.blocks) + [2], dim=1)
        for block, part in zip(self.model.blocks, table, strict=False):
            values = block.adaLN_modulation[1](condition).unflatten(-1, (6, -1)).movedim(2, 1)
            part.copy_(values)
            for norm, shift, scale in ((block.norm1, part[:, 0], part[:, 1]), (block.norm2, part[:, 3], part[:, 4])):
                shift.addcmul_(norm.bias, scale.add_(1))
                scale.mul_(norm.weight)
        scale, shift = self.model.adaln_before_head.adaLN_modulation[1](condition).chunk(2, dim=-1)
        table[-1].copy_(torch.stack([shift, 1 + scale], 1))

    def at(self, place: int, rows: Tensor) -> Tensor:
        """(parts, S, width) of a place for streams whose classes are rows (S,) of the table."""
        if place % self.block == 0:
            self.fill(place)
        return self.table[place % self.block].index_select(1, rows)


class RARDecoder:
    """Sequences that grow by one token a step, in raster order.

    classes int64 (S,): the class of each stream. `first()` gives the logits of token 0, then `step(tokens, k)` appends
    tokens (S,) = token k - 1 and gives the logits of token k: float32 (S, K).
    """

    def __init__(self, model: RAR, classes: Tensor):
        self.model = model
        self.classes, self.rows = classes.unique(return_inverse=True)
        self.modulation = Modulation(model, self.classes)
        attention = model.blocks[0].attn
        self.heads, self.head_width = attention.heads, attention.q_norm.weight.shape[0]
        self.table = model.pos_embed[0, : model.num_tokens + 1].clone()
        self.table[1:] += model.target_aware_pos_embed[0, 2 : model.num_tokens + 2]
        shape = (len(model.blocks), len(classes), self.heads, model.num_tokens + 1, self.head_width)
        self.keys, self.values = self.table.new_empty(shape), self.table.new_empty(shape)

    def first(self) -> Tensor:
        """Logits of token 0."""
        rows = torch.arange(len(self.classes), device=self.rows.device)
        inputs = (self.model.cls_token[0].expand(len(rows), -1), self.model.condition(self.classes))
        for place, x in enumerate(inputs):
            logits = self._place(x, place, rows, self.keys[:, : len(rows)], self.values[:, : len(rows)])
        for cache in (self.keys, self.values):
            cache[:, :, :, :2] = cache[:, : len(rows), :, :2][:, self.rows]
        return logits[self.rows]

    def step(self, tokens: Tensor, step: int) -> Tensor:
        """Appends tokens (S,) as token step - 1; logits of token `step`."""
        return self._place(self.model.embeddings(tokens), step + 1, self.rows, self.keys, self.values)

    def _place(self, x: Tensor, place: int, rows: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """One place of every stream through the network: x (S, width) -> logits."""
        modulation = self.modulation.at(place, rows)
        x = x + self.table[place]
        width = x.shape[1:]
        for layer, block in enumerate(self.model.blocks):
            shift1, scale1, gate1, shift2, scale2, gate2 = modulation[6 * layer : 6 * layer + 6]
            h = torch.addcmul(shift1, F.layer_norm(x, width, eps=NORM_EPS), scale1)
            q, k, v = block.attn.project(h[:, None])
            keys[layer, :, :, place] = k[:, 0]
            values[layer, :, :, place] = v[:, 0]
            h = decode_attention(q.transpose(1, 2), keys[layer], values[layer], place + 1)
            x = torch.addcmul(x, gate1, block.attn.proj(h.flatten(1)))
            h = torch.addcmul(shift2, F.layer_norm(x, width, eps=NORM_EPS), scale2)
            x = torch.addcmul(x, gate2, block.mlp.fc2(F.gelu(block.mlp.fc1(h))))
        shift, scale = modulation[-2:]
        x = torch.addcmul(shift, F.layer_norm(x, width, eps=NORM_EPS), scale)
        return self.model.lm_head(x).float()
