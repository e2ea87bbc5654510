"""The perturbation draw: Philox 4x32-10 of (seed, sample id, token), as Triton ships it."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch


@triton.jit
def _draw_kernel(
    ids,  # *i64 (B)
    threshold,  # *i64 ()
    delta,  # *i64 ()
    seed,  # *i64 ()
    out,  # *i32 (count)
    first,
    count,
    L,
    BLOCK: tl.constexpr,
):
    """Grid (count / BLOCK). One program draws for BLOCK tokens."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    n = first + place.to(tl.int64)
    sample = tl.load(ids + n // L, mask=inside, other=0)
    token = (n % L).to(tl.uint32)  # the stream PERTURB is 0
    low, high = (sample & 0xFFFFFFFF).to(tl.uint32), ((sample >> 32) & 0xFFFFFFFF).to(tl.uint32)
    w0, w1, _, _ = tl.philox(tl.load(seed), token * 0, token, low, high)
    rank = (w1.to(tl.int64) * tl.load(delta)) >> 32
    tl.store(out + place, tl.where(w0.to(tl.int64) < tl.load(threshold), rank, 0).to(tl.int32), mask=inside)


def draw_ranks(
    sample_ids: Tensor, L: int, threshold: Tensor, delta: Tensor, seed: Tensor, first: int, count: int
) -> Tensor:
    """Ranks (count,) int32 in [0, delta) of the codes that replace tokens; 0 where nothing changes.

    The tokens are numbers first to first + count of a batch of images sample_ids (B,) with L tokens each.
    threshold, floor(alpha * 2**32), delta and seed are 0-d int64 on the device.
    """
    block = 256
    out = torch.empty(count, dtype=torch.int32, device=sample_ids.device)
    if count:
        launch(
            _draw_kernel,
            (triton.cdiv(count, block),),
            ids=sample_ids,
            threshold=threshold,
            delta=delta,
            seed=seed,
            out=out,
            first=first,
            count=count,
            L=L,
            BLOCK=block,
        )
    return out
