"""Scores of codes for rows, on the tensor cores, and the bound on their error.

The score u.e - |e|^2 / 2, or u.e where products are compared, is largest for the nearest code. Rows of unit length are
rounded to float16 for the tensor cores: one product where a bound on its error decides nearly all rows; one more with
what rounding left of the row, or two more with that of the code, too, where one would leave too many near ties. Other
rows go through three tf32 products.
"""

import triton
import triton.language as tl

WORST_SCORE = tl.constexpr(-3e38)  # of what is no code, or none that is finite: below those of all that are


@triton.jit
def split_half(x):
    """float32 as a sum of two float16: rounded, and what rounding left."""
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def length_of(squares, D):
    """An upper bound on the length of rows, from the float32 sums of their squares, which are good to D * 2**-23 and
    leave out coordinates whose square underflows."""
    return tl.sqrt(squares) * (1 + D * 2.3841858e-07) + D * 1.1e-19


@triton.jit
def score_error(length, max_norm, rounded, roundoff, D, PRODUCT: tl.constexpr):
    """The largest error that a row's scores can have, from its length; NaN or infinite where a score says nothing.

    max_norm: the largest |e|; rounded: error of the products by the rounding of their operands; roundoff: error of the
    sums, relative to their magnitude. The definition rounds too: its distance is within (D + 3) * 2**-53 of
    (|u| + |e|)^2, a product of |u| |e|. The last term covers the underflow of up to three products a coordinate.
    """
    magnitude = length * max_norm
    reach = magnitude
    if not PRODUCT:
        magnitude += max_norm * max_norm / 2
        reach = (length + max_norm) * (length + max_norm)
    definition = (D + 3) * 1.1102231e-16 * reach
    error = 1.01 * (roundoff * magnitude + rounded + definition + (3 * D + 2) * 1.1754944e-38)
    return tl.where((magnitude > 1e37) | (error > 1e37), float("inf"), error)


@triton.jit
def sum_roundoff(D, PRODUCTS: tl.constexpr):
    """Roundoff of a score with this many products a coordinate, relative to its magnitude.

    Tensor cores cut off what is below 2**-23 of the largest term: of each product, and twice in every step, which adds
    four products or more to what came before. The rest is for the bias, the thresholds and steps that are not filled.
    """
    return (1.5 * PRODUCTS * D + 8) * 1.1920929e-07


@triton.jit
def split_error(
    length,
    limits,  # *f32 (2)
    extra,
    D,
    SPLIT: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """Largest error of scores from three products of halves, or of tf32 parts; `extra` adds to their roundoff.

    Operands: 3 * 2**-22 relative in halves, and 2**-25 an element where a half is subnormal; 5 * 2**-22 in tf32 parts,
    of which the tensor cores cut off the low ones.
    """
    max_norm = tl.load(limits)
    rounded = tl.zeros_like(length)
    if SPLIT:
        rounded = D * (2.9802322e-08 * (length + max_norm) + 1.7763568e-15)
    operands: tl.constexpr = 7.1525574e-07 if SPLIT else 1.1920929e-06
    return score_error(length, max_norm, rounded, operands + sum_roundoff(D, 3) + extra, D, PRODUCT)


@triton.jit
def row_block(
    u,  # *f32 (R, D)
    n,
    d,
    inside,
    D,
):
    """Coordinates d of rows n, float32 (len(n), len(d)); 0 where there are none."""
    mask = inside[:, None] & (d < D)[None, :]
    return tl.load(u + n.to(tl.int64)[:, None] * D + d[None, :], mask=mask, other=0.0)


@triton.jit
def tile_error(
    u,  # *f32 (R, D)
    n,
    inside,
    limits,  # *f32 (2)
    extra,
    D,
    Dp,
    SPLIT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BOTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Largest error (len(n)) of the scores of rows n from `tile_scores`; `extra` adds to their roundoff.

    BOTH: both halves of the rows are multiplied, up to 2**-22 relative, and 2**-25 an element where one is subnormal.
    """
    squares, rest = tl.zeros(n.shape, tl.float32), tl.zeros(n.shape, tl.float32)
    for d0 in range(0, Dp, BLOCK_D):
        x = row_block(u, n, d0 + tl.arange(0, BLOCK_D), inside, D)
        left = x - x.to(tl.float16).to(tl.float32) if SPLIT else tl.zeros_like(x)
        squares, rest = squares + tl.sum(x * x, 1), rest + tl.sum(left * left, 1)
    length = length_of(squares, D)
    if SPLIT:
        residual, max_norm, max_residual = length_of(rest, D), tl.load(limits), tl.load(limits + 1)
        if BOTH:
            residual = 2.3841858e-07 * length + 2.9802322e-08 * D
        rounded = residual * max_norm + (length + residual) * max_residual
        error = score_error(length, max_norm, rounded, sum_roundoff(D, 2 if BOTH else 1) + extra, D, PRODUCT)
    else:
        error = split_error(length, limits, extra, D, SPLIT, PRODUCT)
    return error


@triton.jit
def tile_scores(
    u,  # *f32 (R, D)
    x_high,  # f16 (len(n), BLOCK_D): the first coordinates of rows n, all of them without WIDE
    x_low,  # the same: what rounding left; None for one product
    high,  # *f16 or, without SPLIT, *f32: the first of the codes
    bias,  # *f32: the same
    n,
    column,
    inside,
    D,
    Dp,
    SPLIT: tl.constexpr,
    WIDE: tl.constexpr,
    BOTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Scores (len(n), len(column)) of rows n and the codes `column` of a tile, up to `tile_error`.

    Where rows are of unit length one product, or two with the low halves of the rows; where not, three.
    """
    if not SPLIT:
        scores = split_scores(u, high, None, bias, n, column, inside, D, Dp, SPLIT, BLOCK_D)
    else:
        tile, d = high + column[None, :] * Dp, tl.arange(0, BLOCK_D)
        if WIDE:
            scores = tl.zeros((n.shape[0], column.shape[0]), tl.float32)
            for d0 in range(0, Dp, BLOCK_D):
                first, second = split_half(row_block(u, n, d0 + d, inside, D))
                e = tl.load(tile + (d0 + d)[:, None])
                scores = tl.dot(first, e, tl.dot(second, e, scores) if BOTH else scores)
        else:
            e = tl.load(tile + d[:, None])
            scores = tl.dot(x_high, e, tl.dot(x_low, e) if BOTH else None)
        scores += tl.load(bias + column)[None, :]
    return scores


@triton.jit
def add_split_products(total, x_high, x_low, e_high, e_low):
    """total plus the products of rows and codes in two halves each, but for that of the low ones; small ones first."""
    total = tl.dot(x_high, e_low, total)
    total = tl.dot(x_low, e_high, total)
    return tl.dot(x_high, e_high, total)


@triton.jit
def split_scores(
    u,  # *f32 (R, D)
    high,  # *f16 (Kp, Dp); *f32 without SPLIT
    low,  # *f16 (Kp, Dp); None without SPLIT
    bias,  # *f32 (Kp)
    n,
    k,
    inside,
    D,
    Dp,
    SPLIT: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Scores (len(n), len(k)) of rows n and codes k from three products, up to `split_error`."""
    total = tl.zeros((n.shape[0], k.shape[0]), tl.float32)
    code = k.to(tl.int64) * Dp
    for d0 in range(0, Dp, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        x = row_block(u, n, d, inside, D)
        e_high = tl.load(high + code[None, :] + d[:, None])
        if SPLIT:
            x_high, x_low = split_half(x)
            e_low = tl.load(low + code[None, :] + d[:, None])
            total = add_split_products(total, x_high, x_low, e_high, e_low)
        else:
            total = tl.dot(x, e_high, total, input_precision="tf32x3")
    return total + tl.load(bias + k)[None, :]
