"""Rows as they are compared, and what the other kernels share: their float64 length and distance.

Sums of squares run over the coordinates in order, in float64 and without fused multiply-add (`DEFINITION` is passed at
every launch that needs it), so that a distance has the same bits on every backend.
"""

import torch
import triton
import triton.language as tl

DEFINITION = {"enable_fp_fusion": False}
MIN_SQUARE = tl.constexpr(1e-24)  # of a length: 1e-12 squared


@triton.jit
def row_norms(pointers, stride, D, mask):
    """Float64 lengths, at least 1e-12, of the rows that begin at `pointers`; NaN for a row with one."""
    total = tl.zeros(pointers.shape, tl.float64)
    for d in range(D):
        x = tl.load(pointers + d * stride, mask=mask, other=0.0).to(tl.float64)
        total += x * x
    return tl.sqrt(tl.where(total < MIN_SQUARE, MIN_SQUARE, total))


@triton.jit
def row_offsets(rows, L, stride_b, stride_l):
    """Offsets of tokens (B, L, D) numbered through, int64 for tensors beyond 2**31 elements."""
    return (rows // L).to(tl.int64) * stride_b + (rows % L).to(tl.int64) * stride_l


@triton.jit
def _unit_kernel(
    z, out, first, count, L, stride_b, stride_l, stride_d, D,
    NORMALIZE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program owns BLOCK_N rows: reads them once for the length, once to divide."""
    local = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = local < count
    start = z + row_offsets(first + local.to(tl.int64), L, stride_b, stride_l)
    if NORMALIZE:
        norms = row_norms(start, stride_d, D, inside)
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        mask = inside[:, None] & (d < D)[None, :]
        x = tl.load(start[:, None] + d[None, :] * stride_d, mask=mask, other=0.0).to(tl.float32)
        if NORMALIZE:
            x = (x.to(tl.float64) / norms[:, None]).to(tl.float32)
        tl.store(out + local[:, None].to(tl.int64) * D + d[None, :], x, mask=mask)


def unit_rows(z: torch.Tensor, first: int, count: int, normalize: bool) -> torch.Tensor:
    """Float32 (count, D): tokens first to first + count of z (B, L, D) of any strides, divided by their length."""
    D = z.shape[2]
    out = torch.empty(count, D, dtype=torch.float32, device=z.device)
    block = 64
    grid = (triton.cdiv(count, block),)
    if count:
        _unit_kernel[grid](
            z, out, first, count, z.shape[1], *z.stride(), D,
            NORMALIZE=normalize, BLOCK_N=block, BLOCK_D=min(64, triton.next_power_of_2(D)), **DEFINITION,
        )  # fmt: skip
    return out


@triton.jit
def distance_bits(u, transposed, D, K, k, mask):
    """Squared float64 distances of one row `u` (D,) to the codes k of `transposed` (D, K), as int64 of the same order.

    What is not finite, and what is masked, counts as infinite.
    """
    total = tl.zeros(k.shape, tl.float64)
    column = transposed + k
    for d in range(D):
        x = tl.load(u + d).to(tl.float64)
        e = tl.load(column, mask=mask, other=0.0).to(tl.float64)
        total += (x - e) * (x - e)
        column += K
    total = tl.where(mask & (total < float("inf")), total, float("inf"))
    return total.to(tl.int64, bitcast=True)
