"""A codebook prepared for the kernels, and the bound on the error of a score.

The score u.e - |e|^2 / 2 is largest for the nearest code. Rows of unit length are rounded to float16 for the tensor
cores: one product where a bound on its error decides nearly all rows, three of a high and a low half where that would
leave too many near ties. Other rows go through three tf32 products.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rows import DEFINITION, row_norms

BLOCK_K = 64  # codes of a tile
MAX_BLOCK_D = 64  # coordinates that a product takes at once
LOSES = tl.constexpr(-3e38)  # score of what is no code, or none that is finite: below those of all that are


class Codes(NamedTuple):
    """Rows (K, D) as compared, in the forms in which the kernels read them, padded so that no load needs a mask.

    Kp, Dp: K and D rounded up to whole tiles.
    """

    rows: Tensor  # (K, D) float32
    transposed: Tensor  # (D, K) float32
    high: Tensor  # (Kp, Dp) float16, rows rounded; the float32 rows where they are not of unit length
    low: Tensor  # (Kp, Dp) float16, what rounding left; the same
    bias: Tensor  # (Kp,) float32, -|e|^2 / 2, or LOSES
    limits: Tensor  # (2,) float32, the largest |e| and the largest |e - high| of the codes that are finite
    numbers: Tensor  # (Kp / BLOCK_K,) int32, of the tiles
    split: bool  # in two float16 halves


def block_d(D: int) -> int:
    """Coordinates a product takes at once: at least 16, which the tensor cores need."""
    return max(16, min(MAX_BLOCK_D, triton.next_power_of_2(D)))


def prepare(codebook: Tensor, normalize: bool) -> Codes:
    """Codes of a codebook (K, D), in one launch. Nothing here waits for the device."""
    K, D = codebook.shape
    padded = triton.cdiv(K, BLOCK_K) * BLOCK_K, triton.cdiv(D, block_d(D)) * block_d(D)
    empty = codebook.new_empty
    high = empty(padded, dtype=torch.float16 if normalize else torch.float32)
    codes = Codes(
        rows=empty(K, D, dtype=torch.float32),
        transposed=empty(D, K, dtype=torch.float32),
        high=high,
        low=torch.empty_like(high) if normalize else high,
        bias=empty(padded[0], dtype=torch.float32),
        limits=codebook.new_zeros(2, dtype=torch.float32),
        numbers=empty(padded[0] // BLOCK_K, dtype=torch.int32),
        split=normalize,
    )
    _prepare_kernel[(padded[0] // BLOCK_K,)](
        codebook, *codes[:7], *codebook.stride(), K, D, padded[1],
        NORMALIZE=normalize, BLOCK_K=BLOCK_K, BLOCK_D=block_d(D), **DEFINITION,
    )  # fmt: skip
    return codes


@triton.jit
def split_half(x):
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def _raise_to(limit, value):
    """Atomic maximum with a float >= 0, whose bits are ordered as it is, and a little more for what rounding took."""
    tl.atomic_max(limit.to(tl.pointer_type(tl.int32)), (value * 1.000001 + 1.1e-19).to(tl.int32, bitcast=True))


@triton.jit
def _compared(start, stride_d, norms, d, mask, NORMALIZE: tl.constexpr):
    x = tl.load(start[:, None] + d[None, :] * stride_d, mask=mask, other=0.0).to(tl.float32)
    return (x.to(tl.float64) / norms[:, None]).to(tl.float32) if NORMALIZE else x


@triton.jit
def _prepare_kernel(
    codebook, rows, transposed, high, low, bias, limits, numbers, stride_k, stride_d, K, D, Dp,
    NORMALIZE: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program owns a tile of codes: it writes the rows and sums their squares, then what the products take."""
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    is_code = k < K
    start = codebook + k.to(tl.int64) * stride_k
    norms = row_norms(start, stride_d, D, is_code) if NORMALIZE else tl.full((BLOCK_K,), 1.0, tl.float64)
    squares = tl.zeros((BLOCK_K,), tl.float64)
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        mask = is_code[:, None] & (d < D)[None, :]
        x = _compared(start, stride_d, norms, d, mask, NORMALIZE)
        tl.store(rows + k[:, None].to(tl.int64) * D + d[None, :], x, mask=mask)
        tl.store(transposed + d[None, :].to(tl.int64) * K + k[:, None], x, mask=mask)
        squares += tl.sum(x.to(tl.float64) * x.to(tl.float64), 1)
    tl.store(numbers + tl.program_id(0), tl.program_id(0))
    usable = is_code & (squares < float("inf"))
    tl.store(bias + k, tl.where(usable, squares / -2, LOSES).to(tl.float32))
    residual = tl.zeros((BLOCK_K,), tl.float32)
    for d0 in range(0, Dp, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        x = _compared(start, stride_d, norms, d, usable[:, None] & (d < D)[None, :], NORMALIZE)
        at = k[:, None].to(tl.int64) * Dp + d[None, :]
        if NORMALIZE:
            x_high, x_low = split_half(x)
            rest = x - x_high.to(tl.float32)
            residual += tl.sum(rest * rest, 1)
            tl.store(high + at, x_high)
            tl.store(low + at, x_low)
        else:
            tl.store(high + at, x)
    _raise_to(limits, tl.sqrt(tl.max(tl.where(usable, squares, 0.0), 0)).to(tl.float32))
    _raise_to(limits + 1, tl.max(length_of(residual, D), 0))


@triton.jit
def length_of(squares, D):
    """At least the length of rows from the float32 sums of their squares, which are good to D * 2**-23 and leave out
    coordinates whose square underflows."""
    return tl.sqrt(squares) * (1 + D * 2.3841858e-07) + D * 1.1e-19


@triton.jit
def score_error(length, longest, rounded, roundoff, D):
    """Largest error of the scores of rows of this length; NaN or infinite where they say nothing.

    rounded: of the products, by the rounding of their operands; roundoff: of the sums, relative to their magnitude.
    The definition rounds too: its distance is within (D + 3) * 2**-53 of (|u| + |e|)^2. The last term covers underflow.
    """
    magnitude = length * longest + longest * longest / 2
    definition = (D + 3) * 1.1102231e-16 * (length + longest) * (length + longest)
    error = 1.01 * (roundoff * magnitude + rounded + definition + (D + 2) * 1.1754944e-38)
    return tl.where((magnitude > 1e37) | (error > 1e37), float("inf"), error)


@triton.jit
def split_error(length, limits, extra, D, SPLIT: tl.constexpr):
    """Largest error of scores from three products of halves, or of tf32 parts; `extra` adds to their roundoff.

    Operands: 3 * 2**-22 relative, and 2**-25 an element where a half is subnormal. Sums: 3 D products, each passing at
    most 3 D + 8 roundings of 2**-23, for tensor cores may truncate.
    """
    longest = tl.load(limits)
    rounded = tl.zeros_like(length)
    if SPLIT:
        rounded = D * (2.9802322e-08 * (length + longest) + 1.7763568e-15)
    return score_error(length, longest, rounded, 9.5367432e-07 + (3 * D + 8) * 1.1920929e-07 + extra, D)


@triton.jit
def row_block(u, n, d, inside, D):
    """Coordinates d of rows n of u (R, D); 0 where there are none."""
    mask = inside[:, None] & (d < D)[None, :]
    return tl.load(u + n.to(tl.int64)[:, None] * D + d[None, :], mask=mask, other=0.0)


@triton.jit
def split_scores(u, high, low, bias, n, k, inside, D, Dp,
                 SPLIT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """Scores (BLOCK_N, BLOCK_K) of rows n of u (R, D) and codes k from three products, up to `split_error`."""
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    code = k.to(tl.int64) * Dp
    for d0 in range(0, Dp, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        x = row_block(u, n, d, inside, D)
        e_high = tl.load(high + code[None, :] + d[:, None])
        if SPLIT:
            x_high, x_low = split_half(x)
            e_low = tl.load(low + code[None, :] + d[:, None])
            total = tl.dot(x_high, e_low, total)
            total = tl.dot(x_low, e_high, total)
            total = tl.dot(x_high, e_high, total)
        else:
            total = tl.dot(x, e_high, total, input_precision="tf32x3")
    return total + tl.load(bias + k)[None, :]
