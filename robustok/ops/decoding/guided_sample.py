"""Guided sampling of the next token: classifier-free guidance, temperature, top-k, top-p, keyed Gumbel noise, arg-max.

The noise of an image at a step is a pure function of (seed, sample id, step), so the token drawn depends neither on the
batch nor on the order of work. Everything is float32: guidance amplifies rounding.
"""

from torch import Tensor

from ...core.random import SAMPLE
from . import reference


def guided_sample(
    logits: Tensor,
    scale: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: Tensor,
    sample_ids: Tensor,
    step: Tensor,
) -> Tensor:
    """Draws one token for each image from the softmax of its guided, filtered logits.

    Args:
        logits: (2B, K), conditional rows first, or (B, K) without guidance.
        scale: float32 (B,) or (1,), the guidance scale of this step.
        temperature: > 0.
        top_k: only the top_k largest logits can be drawn; 0: all.
        top_p: in (0, 1]: only the most probable tokens that together reach top_p can be drawn.
        seed: int64 ().
        sample_ids: int64 (B,), the number by which each image is known.
        step: int64 (B,) or (1,), 0..L-1.

    Returns: int64 (B,). On a GPU one Triton kernel does all of it, with the same noise; elsewhere the reference runs.
    """
    if not logits.is_cuda:
        return reference.guided_sample(logits, scale, temperature, top_k, top_p, seed, sample_ids, step)
    from ...kernels.sampling import guided_sample as kernel  # needs Triton, which only a GPU machine has to have

    scales, steps = scale.expand(sample_ids.shape), step.expand(sample_ids.shape)
    return kernel(logits, scales, temperature, top_k, top_p, seed, sample_ids, steps, SAMPLE)
