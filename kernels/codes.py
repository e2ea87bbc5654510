"""A codebook prepared for the kernels, and the bound on the error of a score.

The score u.e - |e|^2 / 2 is largest for the nearest code. Rows of unit length are split in two float16 halves, and
three products of halves are summed in float32 on the tensor cores; other rows go through three tf32 products. Either
way an operand keeps about 21 bits, so near ties are rare.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import rows

BLOCK_N, BLOCK_K, MAX_BLOCK_D = 64, 128, 64


class Codes(NamedTuple):
    """Rows (K, D) as compared, in the forms in which the kernels read them."""

    rows: Tensor  # (K, D) float32
    transposed: Tensor  # (D, K) float32
    high: Tensor  # (K, D) float16, rows rounded; the float32 rows where they are not of unit length
    low: Tensor  # (K, D) float16, the rest; the same
    bias: Tensor  # (K,) float32, -|e|^2 / 2; minus infinity for a code that is not finite
    longest: Tensor  # 0-d float64, largest |e| of the finite codes
    split: bool  # in two float16 halves


def prepare(codebook: Tensor, normalize: bool) -> Codes:
    """Codes of a codebook (K, D). Nothing here waits for the device."""
    e = rows.unit_rows(codebook[None], 0, len(codebook), normalize)
    finite = e.isfinite().all(1)
    usable = torch.where(finite[:, None], e, 0)
    squares = usable.double().square().sum(1)
    bias = torch.where(finite, -squares / 2, -torch.inf).float()
    high = usable.half() if normalize else usable
    low = (usable - high.float()).half() if normalize else usable
    return Codes(e, e.T.contiguous(), high, low, bias, squares.max().sqrt(), normalize)


def score_errors(u: Tensor, codes: Codes) -> Tensor:
    """Largest error (R,) float32 of the scores of rows u (R, D); NaN or infinite where scores say nothing.

    Operands: 3 * 2**-22 relative, and 2**-25 an element where a float16 half is subnormal. Sums: 3 D products, each
    passing at most 3 D + 8 roundings of 2**-23 (tensor cores may truncate). The last term covers underflow.
    """
    D = u.shape[1]
    lengths = u.double().square().sum(1).sqrt()
    magnitude = lengths * codes.longest + codes.longest.square() / 2
    roundoff = 2.0**-20 + D**0.5 * 2.0**-24 + (3 * D + 8) * 2.0**-23
    error = 1.01 * (roundoff * magnitude + (D + 2) * 2.0**-126)
    return torch.where(magnitude > 1e37, torch.inf, error).float()


@triton.jit
def split_half(x):
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def score_tile(
    u, high, low, bias, n, k, inside, D, K,
    SPLIT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Scores (BLOCK_N, BLOCK_K) of rows n of u (R, D) and codes k; minus infinity beyond K."""
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    row, code = u + n.to(tl.int64) * D, k.to(tl.int64) * D
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        x = tl.load(row[:, None] + d[None, :], mask=inside[:, None] & (d < D)[None, :], other=0.0)
        mask = (d < D)[:, None] & (k < K)[None, :]
        e_high = tl.load(high + code[None, :] + d[:, None], mask=mask, other=0.0)
        if SPLIT:
            x_high, x_low = split_half(x)
            e_low = tl.load(low + code[None, :] + d[:, None], mask=mask, other=0.0)
            total = tl.dot(x_high, e_low, total)
            total = tl.dot(x_low, e_high, total)
            total = tl.dot(x_high, e_high, total)
        else:
            total = tl.dot(x, e_high, total, input_precision="tf32x3")
    return total + tl.load(bias + k, mask=k < K, other=float("-inf"))[None, :]


def block_d(D: int) -> int:
    """Coordinates a product takes at once: at least 16, which the tensor cores need."""
    return max(16, min(MAX_BLOCK_D, triton.next_power_of_2(D)))
