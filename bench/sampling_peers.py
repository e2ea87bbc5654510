"""What sampling is measured against: plain PyTorch as the authors sample, and a compiled step with a static cache.

Both use our modules and weights, so that only the way of sampling differs. `draw(logits (B, K), step) -> (B,)`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from robustok.models.generators.rar import RAR

Draw = Callable[[Tensor, int], Tensor]


def multinomial(logits: Tensor, step: int) -> Tensor:
    """softmax + multinomial, with torch's own generator."""
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]


def forced(given: Tensor, kept: Tensor) -> Draw:
    """Draws that are overwritten by tokens `given` (B, L) where `kept` (B, L): sampling with a teacher's tokens."""
    return lambda logits, step: torch.where(kept[:, step], given[:, step], multinomial(logits, step))


class GrowingCache:
    """The authors' loop, as section 3 of PERFORMANCE describes it.

    Every step concatenates to every cache, repeats both position tables to the whole batch and indexes them by orders
    built anew, embeds the whole sequence of ids although one place is used, and modulates every token in every layer.
    """

    def __init__(self, model: RAR):
        self.model = model

    @torch.no_grad()
    def generate(self, classes: Tensor, scale: float, power: float, temperature: float, draw: Draw) -> Tensor:
        length, null = self.model.num_tokens, torch.full_like(classes, self.model.num_classes)
        condition = torch.cat([classes, null]) + self.model.codebook_size + 1
        ids = classes.new_empty(len(classes), 0)
        caches: list = [None] * len(self.model.blocks)
        for step in range(length):
            share = (1 - torch.cos(torch.tensor(step / length) ** power * torch.pi)) / 2
            logits = self._forward(torch.cat([ids, ids]), condition, caches)
            conditional, unconditional = logits.chunk(2)
            guided = unconditional + (conditional - unconditional) * (1 + (scale - 1) * share)
            ids = torch.cat([ids, draw(guided / temperature, step)[:, None]], 1)
        return ids

    def _forward(self, ids: Tensor, condition: Tensor, caches: list) -> Tensor:
        model, count, places = self.model, len(ids), ids.shape[1] + 2
        orders = torch.stack([torch.arange(model.num_tokens) for _ in range(count)]).to(ids.device)
        x = model.embeddings(torch.cat([condition[:, None], ids], 1))
        x = torch.cat([model.cls_token.expand(count, -1, -1), x], 1)
        rows = torch.arange(count, device=ids.device)[:, None]
        own = model.pos_embed.repeat(count, 1, 1)
        own = torch.cat([own[:, :2], own[rows, orders + 2]], 1)
        target = model.target_aware_pos_embed.repeat(count, 1, 1)
        target = F.pad(target[rows, orders + 2], (0, 0, 1, 1))
        x = x + own[:, :places] + target[:, :places]
        c = model.embeddings(condition)[:, None] + model.timesteps_embeddings[:, :places]
        if caches[0] is not None:
            x, c = x[:, -1:], c[:, -1:]
        for layer, block in enumerate(model.blocks):
            x = self._block(block, x, c, caches, layer)
        return model.lm_head(model.adaln_before_head(x, c, None)[:, -1])

    @staticmethod
    def _block(block, x: Tensor, c: Tensor, caches: list, layer: int) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation(c, None)
        h = block.norm1(x) * (1 + scale1) + shift1
        q, k, v = (part.transpose(1, 2) for part in block.attn.split(block.attn.qkv(h)))
        if caches[layer] is not None:
            k, v = torch.cat([caches[layer][0], k], 2), torch.cat([caches[layer][1], v], 2)
        caches[layer] = k, v
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
        x = x + gate1 * block.attn.proj(mixed.transpose(1, 2).flatten(2))
        return x + gate2 * block.mlp(block.norm2(x) * (1 + scale2) + shift2)


class CompiledStaticCache:
    """One compiled decoding step over static caches, with the step number as a tensor: the usual fast PyTorch.

    Each layer has a cache of its own, which the compiler is told stays where it is: of one tensor for all layers it
    copies those that change, and a captured graph would copy what it does not know to be static.
    `compiler` is torch.compile, with the mode that suits the device.
    """

    def __init__(self, model: RAR, compiler: Callable = torch.compile):
        self.model, self.step = model, compiler(self._step)
        self.caches: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def generate(self, classes: Tensor, scale: float, power: float, temperature: float, draw: Draw) -> Tensor:
        model, device = self.model, classes.device
        length, count = model.num_tokens, 2 * len(classes)
        streams = model.condition(torch.cat([classes, torch.full_like(classes, model.num_classes)]))
        self._begin(count, streams)
        first = model.cls_token[0].expand(count, -1).contiguous()
        self._next(first, streams, torch.zeros(1, dtype=torch.int64, device=device))
        x, tokens = streams, []
        for step in range(length):
            share = (1 - torch.cos(torch.tensor(step / length, device=device) ** power * torch.pi)) / 2
            place = torch.full((1,), step + 1, device=device)
            conditional, unconditional = self._next(x, streams, place).float().chunk(2)
            guided = unconditional + (conditional - unconditional) * (1 + (scale - 1) * share)
            tokens.append(draw(guided / temperature, step))
            x = model.embeddings(tokens[-1]).repeat(2, 1)
        return torch.stack(tokens, 1)

    def _begin(self, count: int, like: Tensor) -> None:
        """The caches of so many streams; those of the last batch where it was of this size."""
        if self.caches and len(self.caches[0][0]) == count:
            return
        attention, length = self.model.blocks[0].attn, self.model.num_tokens + 1
        shape = (count, attention.heads, length, self.model.config.width // attention.heads)
        self.caches = [(like.new_zeros(shape), like.new_zeros(shape)) for _ in self.model.blocks]
        for cache in sum(self.caches, ()):
            torch._dynamo.mark_static_address(cache)

    def _next(self, x: Tensor, condition: Tensor, place: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return self.step(x, condition, place, self.caches)

    def _step(self, x: Tensor, condition: Tensor, place: Tensor, caches: list[tuple[Tensor, Tensor]]) -> Tensor:
        model = self.model
        target = model.target_aware_pos_embed[0, place + 1] * (place > 0)[:, None]
        x = (x + model.pos_embed[0, place] + target)[:, None]
        c = (condition + model.timesteps_embeddings[0, place])[:, None]
        seen = torch.arange(caches[0][0].shape[2], device=x.device) <= place
        for block, (keys, values) in zip(model.blocks, caches, strict=True):
            shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation(c, None)
            h = block.norm1(x) * (1 + scale1) + shift1
            q, k, v = (part.transpose(1, 2) for part in block.attn.split(block.attn.qkv(h)))
            keys.index_copy_(2, place, k)
            values.index_copy_(2, place, v)
            mixed = F.scaled_dot_product_attention(q, keys, values, seen[None, None, None])
            x = x + gate1 * block.attn.proj(mixed.transpose(1, 2).flatten(2))
            x = x + gate2 * block.mlp(block.norm2(x) * (1 + scale2) + shift2)
        return model.lm_head(model.adaln_before_head(x, c, None)[:, 0])
