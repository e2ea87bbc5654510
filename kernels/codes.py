"""A codebook prepared for the kernels: its normalised rows in the forms that scores (scores.py) and distances read."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .rows import DEFINITION, load_normalized, row_norms
from .scores import WORST_SCORE, length_of, split_half

BLOCK_K = 64  # codes of a tile
TILES_AT_ONCE = 4  # that some kernels score before they compare: as many tiles are filled up
MAX_BLOCK_D = 64  # coordinates that a product takes at once


class PreparedCodebook(NamedTuple):
    """Normalised rows (K, D) in the forms in which the kernels read them, padded so that no load needs a mask.

    Kp, Dp: K and D rounded up to whole tiles.
    """

    rows: Tensor  # (K, D) float32
    transposed: Tensor  # (D, K) float32
    high: Tensor  # (Kp, Dp): rows rounded to float16; float32 rows as they are where they are not of unit length
    low: Tensor | None  # (Kp, Dp) float16: what rounding left; None where the rows are not of unit length
    bias: Tensor  # (Kp,) float32: -|e|^2 / 2, for products 0; or WORST_SCORE
    limits: Tensor  # (2,) float32: the largest |e| and the largest |e - high| of the codes that are finite
    tile_numbers: Tensor  # (Kp / BLOCK_K,) int32: 0, 1, 2, ...
    split: bool  # in two float16 halves: the rows are of unit length
    product: bool  # whether distances are minus inner products

    @property
    def tiles(self) -> int:
        """A power of two, more than the number of the last tile."""
        return triton.next_power_of_2(len(self.tile_numbers))


def block_d(D: int) -> int:
    """Coordinates a product takes at once: at least 16, which the tensor cores need."""
    return max(16, min(MAX_BLOCK_D, triton.next_power_of_2(D)))


def prepare(codebook: Tensor, normalize: bool, product: bool) -> PreparedCodebook:
    """A codebook (K, D) prepared in one launch, to be compared by distances or by products.

    Nothing here waits for the device.
    """
    K, D = codebook.shape
    most = TILES_AT_ONCE * BLOCK_K
    Kp, Dp = triton.cdiv(K, most) * most, triton.cdiv(D, block_d(D)) * block_d(D)
    empty = codebook.new_empty
    high = empty(Kp, Dp, dtype=torch.float16 if normalize else torch.float32)
    codes = PreparedCodebook(
        rows=empty(K, D, dtype=torch.float32),
        transposed=empty(D, K, dtype=torch.float32),
        high=high,
        low=torch.empty_like(high) if normalize else None,
        bias=empty(Kp, dtype=torch.float32),
        limits=codebook.new_zeros(2, dtype=torch.float32),
        tile_numbers=empty(Kp // BLOCK_K, dtype=torch.int32),
        split=normalize,
        product=product,
    )
    stride_k, stride_d = codebook.stride()
    launch(
        _prepare_kernel,
        (Kp // BLOCK_K,),
        codebook=codebook,
        rows=codes.rows,
        transposed=codes.transposed,
        high=codes.high,
        low=codes.low,
        bias=codes.bias,
        limits=codes.limits,
        tile_numbers=codes.tile_numbers,
        stride_k=stride_k,
        stride_d=stride_d,
        K=K,
        D=D,
        Dp=Dp,
        NORMALIZE=normalize,
        PRODUCT=product,
        BLOCK_K=BLOCK_K,
        BLOCK_D=block_d(D),
        **DEFINITION,
    )
    return codes


@triton.jit
def _raise_to(
    limit,  # *f32 ()
    value,
):
    """Atomic maximum with a float >= 0, whose bits are ordered as it is.

    A little more, for what rounding took, and so that it is infinite where tf32 rounds the value to infinity.
    """
    tl.atomic_max(limit.to(tl.pointer_type(tl.int32)), (value * 1.0005 + 1.1e-19).to(tl.int32, bitcast=True))


@triton.jit
def _prepare_kernel(
    codebook,  # *f16, *bf16 or *f32 (K, D)
    rows,  # *f32 (K, D)
    transposed,  # *f32 (D, K)
    high,  # *f16 (Kp, Dp); *f32 without NORMALIZE
    low,  # *f16 (Kp, Dp); None without NORMALIZE
    bias,  # *f32 (Kp)
    limits,  # *f32 (2), zero
    tile_numbers,  # *i32 (Kp / BLOCK_K)
    stride_k,
    stride_d,
    K,
    D,
    Dp,
    NORMALIZE: tl.constexpr,
    PRODUCT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid (Kp / BLOCK_K). One program owns a tile of codes: it writes the rows and sums their squares, then writes
    what the products read."""
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    is_code = k < K
    start = codebook + k.to(tl.int64) * stride_k
    norms = row_norms(start, stride_d, D, is_code) if NORMALIZE else None
    squares = tl.zeros((BLOCK_K,), tl.float64)
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        mask = is_code[:, None] & (d < D)[None, :]
        x = load_normalized(start, stride_d, norms, d, mask, NORMALIZE)
        tl.store(rows + k[:, None].to(tl.int64) * D + d[None, :], x, mask=mask)
        tl.store(transposed + d[None, :].to(tl.int64) * K + k[:, None], x, mask=mask)
        squares += tl.sum(x.to(tl.float64) * x.to(tl.float64), 1)
    tl.store(tile_numbers + tl.program_id(0), tl.program_id(0))
    usable = is_code & (squares < float("inf"))
    tl.store(bias + k, tl.where(usable, 0.0 if PRODUCT else squares / -2, WORST_SCORE).to(tl.float32))
    residual = tl.zeros((BLOCK_K,), tl.float32)
    for d0 in range(0, Dp, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        x = load_normalized(start, stride_d, norms, d, usable[:, None] & (d < D)[None, :], NORMALIZE)
        x = tl.where(usable[:, None], x, 0.0)  # also where the length is NaN: the score must be the bias
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
