"""The definitions of the decoding operations, in plain PyTorch, written to be read."""

import torch
from torch import Tensor

from ...core.random import SAMPLE, keyed_words, to_uniform

WORDS = 4  # random words of one Philox call: they serve four neighbouring entries of the vocabulary


def decode_attention(query: Tensor, keys: Tensor, values: Tensor, places: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(width)) v in float64, over the places of the cache that each query sees.

    query (S, H, n, width); keys, values (S, H, T, width); places int64 (S, n), the last place each query sees. The
    places behind the last one that any query sees are not read. Returns (S, H, n, width) float64.
    """
    length = int(places.max()) + 1
    query, keys, values = query.double(), keys[:, :, :length].double(), values[:, :, :length].double()
    score = query @ keys.mT / query.shape[-1] ** 0.5
    is_hidden = torch.arange(length, device=query.device) > places[:, None, :, None]
    return score.masked_fill(is_hidden, -torch.inf).softmax(-1) @ values


def guide(logits: Tensor, count: int, scale: Tensor, temperature: float) -> Tensor:
    """Guided logits (count, K) in float32: (u + scale (c - u)) / temperature.

    logits (2 * count, K) holds the conditional rows c first, then the unconditional rows u; with (count, K) there is
    no guidance. scale: broadcasts to (count, 1).
    """
    logits = logits.float()
    if len(logits) == count:
        return logits / temperature
    conditional, unconditional = logits.split(count)
    return torch.lerp(unconditional, conditional, scale) / temperature


def keep_likely(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """logits (B, K) with -inf outside the top_k largest (0: all), then outside the smallest set of largest entries
    whose probability reaches top_p. Entries that tie with the smallest one kept are kept too."""
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    if top_p < 1.0:
        ordered = logits.sort(descending=True).values
        probability = ordered.softmax(-1)
        is_outside = probability.cumsum(-1) - probability >= top_p  # the entries before it have enough probability
        smallest = ordered.masked_fill(is_outside, torch.inf).amin(-1, keepdim=True)
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    return logits


def gumbel_noise(seed: Tensor | int, sample_ids: Tensor, step: Tensor | int, size: int) -> Tensor:
    """Standard Gumbel noise (B, size) in float32 for images sample_ids (B,) at `step`, which broadcasts to (B, 1).

    Entry v takes word v % 4 of Philox at (seed, stream SAMPLE, sample id, step, v // 4).
    """
    inner = torch.arange(-(-size // WORDS), device=sample_ids.device)
    words = keyed_words(seed, SAMPLE, sample_ids[:, None], step, inner)
    return -(-to_uniform(torch.stack(words, -1)).flatten(1)[:, :size].log()).log()


def guided_sample(logits, scale, temperature, top_k, top_p, seed, sample_ids, step) -> Tensor:
    """One token for each image, int64 (B,): arg-max of guided, filtered logits + Gumbel noise.

    Arguments as those of the public `guided_sample`.
    """
    guided = keep_likely(guide(logits, len(sample_ids), scale[:, None], temperature), top_k, top_p)
    return (guided + gumbel_noise(seed, sample_ids, step[:, None], guided.shape[-1])).argmax(-1)
