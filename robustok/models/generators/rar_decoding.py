"""RAR place by place: a static key/value cache, and modulation computed once per class instead of once per token.

The modulation of a block depends on the class and the place alone: it is a table, built by one tall product for a block
of places, with the affine part of the norms folded in. The first two places depend on the class alone: they go through
once a class, not once an image.

A step is an int on the host, or int64 (1,) on the device where a graph of the step is replayed.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ...ops.decoding.attention import decode_attention, fastest_attention
from ...ops.linear import ready_linear
from ...samplers.interfaces import take
from ...samplers.known_tokens import KnownRuns
from .rar_layers import NORM_EPS
from .rar_network import PREFIX, RARNetwork

TABLE_BYTES = 256 * 2**20  # largest modulation table; a larger one is built in blocks of places


class Modulation:
    """Shift, scale and gate of every branch for up to `capacity` classes; the table holds a block of places."""

    def __init__(self, model: RARNetwork, capacity: int):
        self.model, self.capacity = model, capacity
        like, parts = model.cls_token, 6 * len(model.blocks) + 2
        place_bytes = parts * capacity * like.shape[-1] * like.element_size()
        self.block = min(model.num_tokens + 1, max(PREFIX, TABLE_BYTES // place_bytes))
        self.table = like.new_zeros(self.block, parts, capacity, like.shape[-1])

    def start(self, classes: Tensor) -> None:
        """Takes up to `capacity` classes (U,); row u of the table belongs to the u-th."""
        self.condition = self.model.condition(classes)
        self.prepare(0)

    def prepare(self, place: int) -> None:
        """Computes the block of places that begins at `place`, where one does."""
        if place % self.block == 0:
            places = self.model.timesteps_embeddings[0, place : place + self.block]
            values = self.compute(self.condition + places[:, None])
            self.table[: len(places), :, : len(self.condition)] = values.movedim(2, 1)

    def compute(self, condition: Tensor) -> Tensor:
        """(..., width) -> (..., parts, width): shift, scale, gate of both branches a block, then shift, scale."""
        condition, parts = F.silu(condition), []
        for block in self.model.blocks:
            shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation[1](condition).chunk(6, dim=-1)
            parts += _folded(block.norm1, shift1, scale1), gate1, _folded(block.norm2, shift2, scale2), gate2
        scale, shift = self.model.adaln_before_head.adaLN_modulation[1](condition).chunk(2, dim=-1)
        parts += shift, 1 + scale
        return torch.cat(parts, -1).unflatten(-1, (-1, condition.shape[-1]))

    def at(self, place: int | Tensor, rows: Tensor) -> Tensor:
        """(parts, S, width) of one place, for streams whose classes are rows (S,)."""
        return take(self.table, place % self.block).index_select(1, rows)

    def of(self, places: Tensor, rows: Tensor) -> Tensor:
        """(parts, R, width) for pairs of place (R,) and class row (R,): looked up where the table holds all places."""
        if self.block > self.model.num_tokens:
            return self.table[places, :, rows].movedim(1, 0)
        return self.compute(self.condition[rows] + self.model.timesteps_embeddings[0, places]).movedim(1, 0)


def _folded(norm: torch.nn.LayerNorm, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale that do the work of an affine norm too: (x w + b)(1 + scale) + shift, side by side."""
    scale = 1 + scale
    return torch.cat([torch.addcmul(shift, scale, norm.bias), scale * norm.weight], -1)


class RARDecoder:
    """S sequences in raster order that grow by one token a step, or by runs of known tokens.

    `start(classes)` int64 (S,) gives the logits of token 0; `step(tokens, k)` appends tokens (S,) as token k - 1 and
    gives those of token k; `extend` appends runs of different lengths. Logits are float32 (S, K), whatever the dtype of
    the weights. choices: file that keeps which attention is fastest on this GPU, None: one of this machine.
    """

    def __init__(self, model: RARNetwork, streams: int, choices: Path | None = None):
        self.model = model
        self.modulation = Modulation(model, PREFIX)
        self.moved = 0  # how often memory that `step` reads moved: a captured graph of it is then void
        attention = model.blocks[0].attn
        shape = (len(model.blocks), streams, attention.heads, model.num_tokens + 1, attention.q_norm.weight.shape[0])
        self.keys, self.values = model.cls_token.new_zeros(shape), model.cls_token.new_zeros(shape)
        self.attention = fastest_attention(self.keys[0], choices)
        # In float32 whatever the model's dtype: guidance amplifies rounding.
        self.head_copy = [torch.empty_like(part, dtype=torch.float32) for part in model.lm_head.parameters()]
        self.rows = torch.zeros(streams, dtype=torch.int64, device=self.keys.device)
        self.positions = torch.empty_like(model.pos_embed[0, : model.num_tokens + 1])

    def start(self, classes: Tensor) -> Tensor:
        """Begins new sequences; reads the weights anew. The one call that waits for the device."""
        found, rows = classes.unique(return_inverse=True)
        self.rows.copy_(rows)
        if len(found) > self.modulation.capacity:
            self.modulation = Modulation(self.model, 1 << (len(found) - 1).bit_length())
            self.moved += 1
        self.modulation.start(found)
        self._ready_layers()
        own, target = self.model.pos_embed[0], self.model.target_aware_pos_embed[0]
        self.positions.copy_(own[: len(self.positions)])
        self.positions[1:] += target[PREFIX : len(self.positions) + 1]
        return self._prefix(found)[self.rows]

    def _ready_layers(self) -> None:
        """The linear layers in the form that is fastest for many calls."""
        rows = len(self.rows)
        self.layers = [
            [ready_linear(x.weight, x.bias, rows) for x in (b.attn.qkv, b.attn.proj, b.mlp.fc1, b.mlp.fc2)]
            for b in self.model.blocks
        ]
        for copy, parameter in zip(self.head_copy, self.model.lm_head.parameters(), strict=True):
            copy.copy_(parameter)
        self.head = ready_linear(*self.head_copy, rows)

    def _prefix(self, classes: Tensor) -> Tensor:
        """Class vector and condition through the network, once a class; their keys and values go to every stream."""
        rows = torch.arange(len(classes), device=classes.device)
        layers, _, heads, _, width = self.keys.shape
        caches = self.keys.new_empty(2, layers, len(rows), heads, PREFIX, width)
        for place, x in enumerate((self.model.cls_token[0].expand(len(rows), -1), self.model.condition(classes))):
            last = self._blocks(x + self.positions[place], self.modulation.at(place, rows), _one(*caches, place))
        for cache, prefix in zip((self.keys, self.values), caches, strict=True):
            cache[:, :, :, :PREFIX] = prefix[:, self.rows]
        return self._head(last, self.modulation.at(PREFIX - 1, rows))

    def step(self, tokens: Tensor, step: int | Tensor) -> Tensor:
        """Appends tokens (S,) as token step - 1; logits of token `step`. `prepare(step)` comes first, on the host."""
        place = step + 1
        modulation = self.modulation.at(place, self.rows)
        x = self.model.embeddings(tokens) + take(self.positions, place)
        attend = _one(self.keys, self.values, place, self.attention)
        return self._head(self._blocks(x, modulation, attend), modulation)

    def prepare(self, step: int) -> None:
        """Makes the modulation of `step` ready."""
        self.modulation.prepare(step + 1)

    def extend(self, tokens: Tensor, runs: KnownRuns) -> Tensor:
        """Appends runs of tokens (R,) in one causal step; logits (k, K) of what follows the rows runs.last."""
        places = runs.steps + 1
        modulation = self.modulation.of(places, self.rows[runs.sequences])
        x = self.model.embeddings(tokens) + self.positions[places]
        x = self._blocks(x, modulation, _many(self.keys, self.values, runs))
        return self._head(x[runs.last], modulation[:, runs.last])

    def _blocks(self, x: Tensor, modulation: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        """x (R, width) through the blocks; attend(layer, q, k, v) stores keys and values and gives (R, width)."""
        width = x.shape[1:]
        for layer, block in enumerate(self.model.blocks):
            qkv, proj, fc1, fc2 = self.layers[layer]
            shift1, scale1, gate1, shift2, scale2, gate2 = modulation[6 * layer : 6 * layer + 6]
            h = torch.addcmul(shift1, F.layer_norm(x, width, eps=NORM_EPS), scale1)
            h = attend(layer, *block.attn.split(qkv(h)))
            x = torch.addcmul(x, gate1, proj(h))
            h = torch.addcmul(shift2, F.layer_norm(x, width, eps=NORM_EPS), scale2)
            x = torch.addcmul(x, gate2, fc2(F.gelu(fc1(h))))
        return x

    def _head(self, x: Tensor, modulation: Tensor) -> Tensor:
        x = torch.addcmul(modulation[-2], F.layer_norm(x, x.shape[1:], eps=NORM_EPS), modulation[-1])
        return self.head(x.float())


def _one(keys: Tensor, values: Tensor, place: int | Tensor,
         attention: Callable[..., Tensor] = decode_attention) -> Callable[..., Tensor]:  # fmt: skip
    """Attention of the same new place in every stream."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        where = slice(place, place + 1) if isinstance(place, int) else place
        keys[layer][:, :, where] = k[:, :, None]
        values[layer][:, :, where] = v[:, :, None]
        seen = (place + 1, None) if isinstance(place, int) else (keys.shape[3], place[:, None])
        return attention(q[:, :, None], keys[layer], values[layer], *seen).flatten(1)

    return attend


def _many(keys: Tensor, values: Tensor, runs: KnownRuns) -> Callable[..., Tensor]:
    """Attention of runs of new places, each stream's of its own length."""
    streams, columns, places = runs.sequences, runs.columns, runs.steps + 1
    last = places.new_zeros(keys.shape[1], runs.longest)  # queries that stand for nothing see place 0
    last[streams, columns] = places

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys[layer][streams, :, places] = k
        values[layer][streams, :, places] = v
        queries = q.new_zeros(len(last), runs.longest, *q.shape[1:])
        queries[streams, columns] = q
        mixed = decode_attention(queries.transpose(1, 2), keys[layer], values[layer], runs.reach + 2, last)
        return mixed.transpose(1, 2)[streams, columns].flatten(1)

    return attend
