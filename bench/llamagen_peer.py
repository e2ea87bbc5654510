"""What LlamaGen's sampling is measured against: its published loop, in plain PyTorch.

It uses our modules and weights, so that only the way of sampling differs. `draw(logits (B, K), step) -> (B,)`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from robustok.models.generators.llamagen import LlamaGen

Draw = Callable[[Tensor, int], Tensor]


class PublishedLoop:
    """A step at a time from Python, over caches that are made anew for every batch and always read whole.

    For guidance a batch of twice the size goes through every step, the class vector of each image included. Caches have
    a multiple of 8 places, and those that are not there yet are masked. Keys and values are repeated for the heads that
    share them, also where none do. Attention is torch's plain one: the loop turns the fused ones off.
    """

    def __init__(self, model: LlamaGen):
        self.model = model
        cos, sin = model.rotation()
        self.table = torch.stack([cos[:, 0], sin[:, 0]], -1)
        self.places = -(-(1 + model.num_tokens) // 8) * 8

    @torch.no_grad()
    def generate(self, classes: Tensor, scale: float, draw: Draw) -> Tensor:
        """int64 (B, L) tokens under constant guidance."""
        model, device = self.model, classes.device
        classes = torch.cat([classes, torch.full_like(classes, model.num_classes)])
        attention = model.layers[0].attention
        shape = (len(classes), attention.kv_heads, self.places, attention.head_width)
        caches = [
            [torch.zeros(shape, dtype=self.model.output.weight.dtype, device=device) for _ in range(2)]
            for _ in model.layers
        ]
        self.seen = torch.ones(self.places, self.places, dtype=torch.bool, device=device).tril()
        self.seen = self.seen.repeat(len(classes), 1, 1)
        x, tokens = model.cls_embedding(classes)[:, None], []
        for step in range(model.num_tokens):
            with sdpa_kernel(SDPBackend.MATH):
                logits = self._forward(x, torch.tensor([step], device=device), caches)
            conditional, unconditional = logits.chunk(2)
            tokens.append(draw(unconditional + (conditional - unconditional) * scale, step))
            x = model.tok_embeddings(torch.cat([tokens[-1], tokens[-1]])[:, None])
        return torch.stack(tokens, 1)

    def _forward(self, x: Tensor, place: Tensor, caches: list) -> Tensor:
        table, mask = self.table[place], self.seen[:, None, place]
        for layer, cache in zip(self.model.layers, caches, strict=True):
            h = x + self._attend(layer.attention, self._norm(layer.attention_norm, x), table, place, mask, cache)
            x = h + layer.feed_forward(self._norm(layer.ffn_norm, h))
        return self.model.output(self._norm(self.model.norm, x)).float()[:, -1]

    @staticmethod
    def _norm(norm: torch.nn.RMSNorm, x: Tensor) -> Tensor:
        h = x.float()
        h = h * torch.rsqrt(torch.mean(h * h, -1, keepdim=True) + norm.eps)
        return h.type_as(x) * norm.weight

    def _attend(self, attention, x: Tensor, table: Tensor, place: Tensor, mask: Tensor, cache: list) -> Tensor:
        heads, kv_heads, width = attention.heads, attention.kv_heads, attention.head_width
        q, k, v = attention.wqkv(x).split([heads * width, kv_heads * width, kv_heads * width], -1)
        q, k = self._turn(q.unflatten(-1, (heads, width)), table), self._turn(k.unflatten(-1, (kv_heads, width)), table)
        for stored, new in zip(cache, (k, v.unflatten(-1, (kv_heads, width))), strict=True):
            stored[:, :, place] = new.transpose(1, 2)
        keys, values = (stored.repeat_interleave(heads // kv_heads, 1) for stored in cache)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, attn_mask=mask)
        return attention.wo(mixed.transpose(1, 2).flatten(2))

    @staticmethod
    def _turn(x: Tensor, table: Tensor) -> Tensor:
        pairs, (cos, sin) = x.float().unflatten(-1, (-1, 2)), table[:, None].unbind(-1)
        a, b = pairs.unbind(-1)
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2).type_as(x)
