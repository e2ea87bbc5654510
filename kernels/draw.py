"""The perturbation draw: Philox 4x32-10 of (seed, sample id, token), as Triton ships it."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _draw_kernel(ids, threshold, delta, seed, out, count, L, BLOCK: tl.constexpr):
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < count
    sample = tl.load(ids + n // L, mask=inside, other=0)
    token = (n % L).to(tl.uint32)  # the stream PERTURB is 0
    low, high = (sample & 0xFFFFFFFF).to(tl.uint32), ((sample >> 32) & 0xFFFFFFFF).to(tl.uint32)
    w0, w1, _, _ = tl.philox(tl.load(seed), token * 0, token, low, high)
    rank = (w1.to(tl.int64) * tl.load(delta)) >> 32
    tl.store(out + n, tl.where(w0.to(tl.int64) < tl.load(threshold), rank, 0).to(tl.int32), mask=inside)


def draw_ranks(sample_ids: Tensor, L: int, threshold: Tensor, delta: Tensor, seed: Tensor) -> Tensor:
    """Ranks (images * L,) int32 in [0, delta) of each token's code; 0 where nothing changes.

    threshold, floor(alpha * 2**32), delta and seed are 0-d int64 on the device.
    """
    count, block = len(sample_ids) * L, 256
    out = torch.empty(count, dtype=torch.int32, device=sample_ids.device)
    if count:
        _draw_kernel[(triton.cdiv(count, block),)](
            sample_ids.contiguous(), threshold, delta, seed, out, count, L, BLOCK=block
        )
    return out
