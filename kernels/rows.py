"""Rows normalised for comparison, and what the other kernels share: their float64 length and distance.

Sums of squares run over the coordinates in order, in float64 and without fused multiply-add (`DEFINITION` is passed at
every launch that needs it), so that a distance has the same bits on every backend.
"""

import torch
import triton
import triton.language as tl

from .launch import launch

DEFINITION = {"enable_fp_fusion": False}
MIN_SQUARE = tl.constexpr(1e-24)  # of a length: 1e-12 squared
INFINITE = tl.constexpr(0x7FF0000000000000)  # the bits of an infinite float64


@triton.jit
def _four_coordinates(
    rows,  # *f16, *bf16 or *f32 (n): where each row begins
    stride,
    d,
    D,
    mask,
):
    """Coordinates d to d + 3 of rows, each float64 (n); 0 beyond D. Read together: 16 bytes of a float32 row."""
    four = d + tl.arange(0, 4)
    x = tl.load(
        rows[:, None] + four.to(tl.int64)[None, :] * stride, mask=mask[:, None] & (four < D)[None, :], other=0.0
    )
    even, odd = tl.split(tl.reshape(x.to(tl.float64), (rows.shape[0], 2, 2)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def row_norms(
    rows,  # *f16, *bf16 or *f32 (n): where each row begins
    stride,
    D,
    mask,
):
    """Float64 lengths (n), at least 1e-12, of rows of D coordinates `stride` apart; NaN for a row with one.

    The square of a float32 is exact in float64, so that a fused multiply-add gives the same bits.
    """
    total = tl.zeros(rows.shape, tl.float64)
    for d in range(0, D, 4):
        x0, x1, x2, x3 = _four_coordinates(rows, stride, d, D, mask)
        total = (((total + x0 * x0) + x1 * x1) + x2 * x2) + x3 * x3
    return tl.sqrt(tl.where(total < MIN_SQUARE, MIN_SQUARE, total))


@triton.jit
def load_normalized(
    rows,  # *f16, *bf16 or *f32 (n): where each row begins
    stride,
    norms,
    d,
    mask,
    NORMALIZE: tl.constexpr,
):
    """Coordinates d of rows, float32 (n, len(d)): divided by the float64 norms (n) and rounded, or as they are."""
    x = tl.load(rows[:, None] + d.to(tl.int64)[None, :] * stride, mask=mask, other=0.0).to(tl.float32)
    return (x.to(tl.float64) / norms[:, None]).to(tl.float32) if NORMALIZE else x


@triton.jit
def row_offsets(rows, L, stride_b, stride_l):
    """Offsets in a tensor (B, L, D) of the tokens with these numbers in the batch; int64, for beyond 2**31 elements."""
    return (rows // L).to(tl.int64) * stride_b + (rows % L).to(tl.int64) * stride_l


@triton.jit
def _normalize_rows_kernel(
    z,  # *f16, *bf16 or *f32 (B, L, D)
    out,  # *f32 (count, D), contiguous
    first,
    count,
    L,
    stride_b,
    stride_l,
    stride_d,
    D,
    NORMALIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid (count / BLOCK_N). One program owns BLOCK_N rows: reads them once for the length, once to divide."""
    local = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = local < count
    rows = z + row_offsets(first + local.to(tl.int64), L, stride_b, stride_l)
    norms = row_norms(rows, stride_d, D, inside) if NORMALIZE else None
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        mask = inside[:, None] & (d < D)[None, :]
        x = load_normalized(rows, stride_d, norms, d, mask, NORMALIZE)
        tl.store(out + local[:, None].to(tl.int64) * D + d[None, :], x, mask=mask)


def normalize_rows(z: torch.Tensor, first: int, out: torch.Tensor, normalize: bool) -> None:
    """Write tokens first to first + R of z (B, L, D), of any strides, to float32 out (R, D).

    Each divided by its length; as it is where not `normalize`.
    """
    count, D = out.shape
    stride_b, stride_l, stride_d = z.stride()
    block = 64
    if count:
        launch(
            _normalize_rows_kernel,
            (triton.cdiv(count, block),),
            z=z,
            out=out,
            first=first,
            count=count,
            L=z.shape[1],
            stride_b=stride_b,
            stride_l=stride_l,
            stride_d=stride_d,
            D=D,
            NORMALIZE=normalize,
            BLOCK_N=block,
            BLOCK_D=min(32, triton.next_power_of_2(D)),
            num_warps=block // 32,  # a thread has a row, of which it reads 16 bytes at once
            **DEFINITION,
        )


@triton.jit
def distance_bits(
    u,  # *f32 (D): one row
    transposed,  # *f32 (D, K)
    D,
    K,
    k,
    mask,
    PRODUCT: tl.constexpr,
):
    """Float64 distances of one row to the codes k, squared or minus inner products, as int64 of the same order.

    What is not finite, and what is masked, counts as infinite.
    """
    total = tl.zeros(k.shape, tl.float64)
    column = transposed + k
    for d in range(D):
        x = tl.load(u + d).to(tl.float64)
        e = tl.load(column, mask=mask, other=0.0).to(tl.float64)
        total = _add(total, x, e, PRODUCT)
        column += K
    return _ordered_bits(total, mask)


@triton.jit
def gathered_distance_bits(
    u,  # *f32 (n): where each row begins
    codes,  # *f32 (n): where the code of each begins
    D,
    mask,
    PRODUCT: tl.constexpr,
):
    """As `distance_bits`, of each row to a code of its own, whose coordinates lie together."""
    total = tl.zeros(u.shape, tl.float64)
    for d in range(0, D, 4):
        x0, x1, x2, x3 = _four_coordinates(u, 1, d, D, mask)
        e0, e1, e2, e3 = _four_coordinates(codes, 1, d, D, mask)
        total = _add(_add(total, x0, e0, PRODUCT), x1, e1, PRODUCT)
        total = _add(_add(total, x2, e2, PRODUCT), x3, e3, PRODUCT)
    return _ordered_bits(total, mask)


@triton.jit
def _add(total, x, e, PRODUCT: tl.constexpr):
    """A distance and what one coordinate adds to it."""
    return total + (-x * e if PRODUCT else (x - e) * (x - e))


@triton.jit
def _ordered_bits(total, mask):
    total = tl.where(mask & (tl.abs(total) < float("inf")), total, float("inf"))
    bits = total.to(tl.int64, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFFFFFFFFFF, bits)  # negative distances: the larger, the farther from 0
