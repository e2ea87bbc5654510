"""Guided sampling of the next token: classifier-free guidance, temperature, top-k, top-p, keyed Gumbel noise, arg-max.

The noise of an image at a step is a pure function of (seed, sample id, step), so the token drawn depends neither on the
batch nor on the order of work. Everything is float32: guidance amplifies rounding.
"""

import torch
from torch import Tensor

from ...core.random import SAMPLE, keyed_words, to_uniform

WORDS = 4  # random words of one Philox call: they serve four neighbouring entries of the vocabulary


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
        outside = probability.cumsum(-1) - probability >= top_p  # the mass in front of it is enough already
        smallest = ordered.masked_fill(outside, torch.inf).amin(-1, keepdim=True)
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    return logits


def gumbel_noise(seed: Tensor | int, sample_ids: Tensor, step: Tensor | int, size: int) -> Tensor:
    """Standard Gumbel noise (B, size) in float32 for images sample_ids (B,) at `step`, which broadcasts to (B, 1).

    Entry v takes word v % 4 of Philox at (seed, stream SAMPLE, sample id, step, v // 4).
    """
    inner = torch.arange(-(-size // WORDS), device=sample_ids.device)
    words = keyed_words(seed, SAMPLE, sample_ids[:, None], step, inner)
    return -(-to_uniform(torch.stack(words, -1)).flatten(1)[:, :size].log()).log()


def guided_sample(logits: Tensor, scale: Tensor, temperature: float, top_k: int, top_p: float, seed: Tensor,
                  sample_ids: Tensor, step: Tensor) -> Tensor:  # fmt: skip
    """Draws one token an image from softmax of its guided, filtered logits, by arg-max of logits + Gumbel noise.

    Args:
        logits: (2B, K), conditional rows first, or (B, K) without guidance.
        scale: float32 (B,) or (1,), the guidance scale of this step.
        temperature: > 0.   top_k: 0 keeps all.   top_p: in (0, 1].
        seed: int64 ().   sample_ids: int64 (B,).   step: int64 (B,) or (1,), 0..L-1.

    Returns: int64 (B,). On a GPU one Triton kernel does all of it, with the same noise.
    """
    if logits.is_cuda:
        from ...kernels.sampling import guided_sample as kernel

        many = sample_ids.shape
        return kernel(
            logits, scale.expand(many), temperature, top_k, top_p, seed, sample_ids, step.expand(many), SAMPLE
        )
    guided = keep_likely(guide(logits, len(sample_ids), scale[:, None], temperature), top_k, top_p)
    return (guided + gumbel_noise(seed, sample_ids, step[:, None], guided.shape[-1])).argmax(-1)
