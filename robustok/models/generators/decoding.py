"""What the decoders of autoregressive generators share: a static cache of keys and values, and a float32 head.

A step number is an int on the host, or int64 (1,) on the device where a captured graph of the step is replayed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...ops.decoding import Append, NewPlaces, append, decode_attention
from ...ops.linear import ready_linear
from ...samplers.known_tokens import KnownRuns

Attend = Callable[[int, NewPlaces], Tensor]  # (layer, new places) -> what they attend to, (R, H * width)


class KeyValueCache:
    """Keys and values of every layer for S sequences of T places.

    A sequence begins with `prefix` places that depend on its class; the token of number t is at place prefix + t. Each
    layer has tensors of its own (S, G, T, width): torch.compile would copy those of all layers if they were one.

    Queries may have more heads H than keys and values (G): H / G neighbouring heads then share a head of the cache.
    """

    def __init__(self, like: Tensor, *, layers: int, streams: int, heads: int, places: int, width: int, prefix: int):
        shape = (streams, heads, places, width)
        self.prefix = prefix
        self.keys = [like.new_zeros(shape) for _ in range(layers)]
        self.values = [like.new_zeros(shape) for _ in range(layers)]

    def begin(self, classes: KeyValueCache, rows: Tensor) -> None:
        """Sequence s begins with the places of sequence rows[s] of a cache that holds the prefix of every class."""
        for own, prefix in zip(self.keys + self.values, classes.keys + classes.values, strict=True):
            own[:, :, : self.prefix] = prefix[rows]

    def one_place(self, step: int | Tensor, way: Append = append) -> Attend:
        """Attention of one new place in every sequence, that of token step - 1; in the prefix steps are below 1."""
        return lambda layer, new: way(new, self.keys[layer], self.values[layer], step, self.prefix - 1)

    def runs(self, runs: KnownRuns) -> Attend:
        """Attention of runs of new places, whose length differs from sequence to sequence."""
        sequences, columns, places = runs.sequences, runs.columns, runs.steps + self.prefix - 1
        streams, heads = self.keys[0].shape[:2]
        last = places.new_zeros(streams, runs.longest)  # shorter runs are filled up with queries that see place 0
        last[sequences, columns] = places

        def attend(layer: int, new: NewPlaces) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            q, k, v = new.split(new.qkv)
            keys[sequences, :, places] = k
            values[sequences, :, places] = v
            queries = q.new_zeros(*last.shape, *q.shape[1:])
            queries[sequences, columns] = q
            queries = queries.unflatten(2, (heads, -1)).transpose(1, 2)  # (S, G, longest, H / G, width)
            seen = last.repeat_interleave(queries.shape[3], 1)
            mixed = decode_attention(queries.flatten(2, 3), keys, values, runs.reach + self.prefix, seen)
            return mixed.view(queries.shape).transpose(1, 2)[sequences, columns].flatten(1)

        return attend


def cache_traffic(places: int, row_bytes: int) -> int:
    """Bytes that attention reads while `places` places are decoded one by one: place p reads rows 0..p."""
    return row_bytes * places * (places + 1) // 2


class Float32Head:
    """The layer that makes logits, in float32 whatever the dtype of its weights: guidance amplifies rounding."""

    def __init__(self, layer: nn.Linear):
        self.layer = layer
        self.copies = [torch.empty_like(part, dtype=torch.float32) for part in layer.parameters()]

    def ready(self, rows: int) -> None:
        """Reads the weights anew; about `rows` rows will go through at a time. Their addresses stay the same."""
        for copy, parameter in zip(self.copies, self.layer.parameters(), strict=True):
            copy.copy_(parameter)
        self.linear = ready_linear(self.copies[0], self.copies[1] if len(self.copies) > 1 else None, rows)

    def __call__(self, x: Tensor) -> Tensor:
        """(R, width) -> float32 (R, K)."""
        return self.linear(x.float())
