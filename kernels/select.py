"""The code of a given rank for each row, no sorted list: one pass decides nearly all rows (select_top.py), and for the
others all scores are bisected here.

A program scores a few rows at a time into scratch memory of its own, which stays in the cache, and bisects those scores
until one code of a row remains (csrc/select.h says why that is exact). Where other scores are within twice the error,
the definition orders their codes.
"""

import triton
import triton.language as tl
from torch import Tensor

from .codes import BLOCK_K, PreparedCodebook, block_d
from .launch import launch
from .rows import DEFINITION, INFINITE, distance_bits
from .scores import WORST_SCORE, length_of, row_block, split_error, split_scores
from .select_top import bracket, select_top

BLOCK_N = 16  # rows scored together, the fewest that a product takes
SCRATCH_BYTES = 16 << 20


@triton.jit
def _count(mask):
    return tl.sum(mask.to(tl.int32), 1)


@triton.jit
def _at_rank(bits, k, rank):
    """The code at `rank` by (distance, index) among those whose bits are not beyond infinity: bisects the bits, then
    the index."""
    valid = bits <= INFINITE
    low = tl.min(bits, 0)
    high = tl.max(tl.where(valid, bits, low), 0)
    while low < high:
        middle = (low & high) + ((low ^ high) >> 1)  # the mean, rounded down, without overflow
        enough = tl.sum((valid & (bits <= middle)).to(tl.int32), 0) > rank
        low = tl.where(enough, low, middle + 1)
        high = tl.where(enough, middle, high)
    left = rank - tl.sum((valid & (bits < low)).to(tl.int32), 0)
    equal = (bits == low).to(tl.int32)
    return tl.max(tl.where((equal > 0) & (tl.cumsum(equal, 0) == left + 1), k, 0), 0)


@triton.jit
def _order(
    u,  # *f32 (D): one row
    transposed,  # *f32 (D, K)
    scores,  # *f32 (Kp)
    low,
    high,
    rank,
    D,
    K,
    PRODUCT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The code at `rank` of a row: the definition orders the codes whose score is in [low, high] or NaN."""
    k = tl.arange(0, BLOCK)
    row = tl.load(scores + k, mask=k < K, other=0.0)
    above = (k < K) & (row > high)
    inside = (k < K) & ((row < low) == 0) & (above == 0)
    bits = tl.where(inside, distance_bits(u, transposed, D, K, k, inside, PRODUCT), INFINITE + 1)
    return _at_rank(bits, k, rank - tl.sum(above.to(tl.int32), 0))


@triton.jit
def _score_rows(
    u,  # *f32 (R, D)
    high,  # *f16 (Kp, Dp); *f32 without SPLIT
    low,  # *f16 (Kp, Dp); None without SPLIT
    bias,  # *f32 (Kp)
    limits,  # *f32 (2)
    scratch,  # *f32 (len(n), Kp)
    errors,  # *f32 (len(n))
    n,
    inside,
    D,
    Kp,
    Dp,
    SPLIT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Writes the scores (len(n), Kp) of rows n to scratch, and their errors."""
    squares = tl.zeros(n.shape, tl.float32)
    for d0 in range(0, Dp, BLOCK_D):
        x = row_block(u, n, d0 + tl.arange(0, BLOCK_D), inside, D)
        squares += tl.sum(x * x, 1)
    row = tl.arange(0, n.shape[0])
    tl.store(errors + row, split_error(length_of(squares, D), limits, 0.0, D, SPLIT, PRODUCT))
    for start in range(0, Kp, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        scores = split_scores(u, high, low, bias, n, k, inside, D, Dp, SPLIT, BLOCK_D)
        tl.store(scratch + row[:, None] * Kp + k[None, :], scores)


@triton.jit
def _select_kernel(
    u,  # *f32 (R, D)
    high,  # *f16 (Kp, Dp); *f32 without SPLIT
    low,  # *f16 (Kp, Dp); None without SPLIT
    bias,  # *f32 (Kp)
    limits,  # *f32 (2)
    transposed,  # *f32 (D, K)
    ranks,  # *i32 (R)
    out,  # *i64 (R)
    listed,  # *i32 (R): the rows to decide
    listed_count,  # *i32 (1): how many there are
    scratch,  # *f32 (programs, BLOCK_N, Kp)
    errors,  # *f32 (programs, BLOCK_N): scratch
    D,
    K,
    Kp,
    Dp,
    SPLIT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Any grid. Programs share the listed rows and score BLOCK_N at a time; of those a program holds the scores of ROWS
    at once in registers, padded to BLOCK codes."""
    scratch += tl.program_id(0).to(tl.int64) * BLOCK_N * Kp
    errors += tl.program_id(0) * BLOCK_N
    total = tl.load(listed_count)
    for begin in range(tl.program_id(0) * BLOCK_N, total, tl.num_programs(0) * BLOCK_N):
        place = begin + tl.arange(0, BLOCK_N)
        n = tl.load(listed + place, mask=place < total, other=0)
        tl.debug_barrier()  # all have read the scratch of the rows before
        _score_rows(
            u, high, low, bias, limits, scratch, errors, n, place < total, D, Kp, Dp, SPLIT, PRODUCT, BLOCK_K, BLOCK_D
        )
        tl.debug_barrier()  # all have written it
        for group in range(0, BLOCK_N, ROWS):
            row, k = group + tl.arange(0, ROWS), tl.arange(0, BLOCK)
            inside = begin + row < total
            who = tl.load(listed + begin + row, mask=inside, other=0)
            rank = tl.load(ranks + who, mask=inside, other=0)
            scores = tl.load(scratch + row[:, None] * Kp + k[None, :], mask=(k < Kp)[None, :], other=WORST_SCORE)
            error = tl.load(errors + row)
            floor, ceiling = bracket((scores,), rank, error, 1)
            floor, ceiling = floor - 2 * error, ceiling + 2 * error
            # Negated, so that all are candidates where the error is NaN or infinite.
            is_above = scores > ceiling[:, None]
            is_near = ((scores < floor[:, None]) == 0) & (is_above == 0) & (k < K)[None, :]
            count = _count(is_near)
            winner = tl.max(tl.where(is_near, k[None, :], 0), 1)
            tl.store(out + who, winner.to(tl.int64), mask=inside & (count == 1))
            for i in range(ROWS):
                here = tl.arange(0, ROWS) == i
                if tl.max(tl.where(here & inside & (count != 1), 1, 0), 0) > 0:
                    at = tl.load(listed + begin + group + i)
                    wanted = tl.load(ranks + at)
                    lowest = tl.sum(tl.where(here, floor, 0.0), 0)
                    highest = tl.sum(tl.where(here, ceiling, 0.0), 0)
                    row_u, row_scores = u + at.to(tl.int64) * D, scratch + (group + i) * Kp
                    code = _order(row_u, transposed, row_scores, lowest, highest, wanted, D, K, PRODUCT, BLOCK)
                    tl.store(out + at, code.to(tl.int64))


def select(
    u: Tensor,
    codes: PreparedCodebook,
    ranks: Tensor,
    out: Tensor,
    nearest: Tensor | None = None,
    delta: int | None = None,
) -> None:
    """Write the codes at ranks (R,) int32 of float32 rows (R, D) to out (R,) int64, where the rank is not 0.

    With nearest (R,) int64 the nearest codes are written there, and to out where the rank is 0: the same pass over the
    codebook finds them. delta: what all ranks are below, where the host knows it; it decides about speed alone.
    """
    (R, D), (Kp, Dp), K = u.shape, codes.high.shape, len(codes.rows)
    if R == 0:
        return
    listed, listed_count = select_top(u, codes, ranks, out, nearest, delta)
    block = triton.next_power_of_2(Kp)
    programs = min(triton.cdiv(R, BLOCK_N), max(1, SCRATCH_BYTES // (4 * BLOCK_N * Kp)))
    launch(
        _select_kernel,
        (programs,),
        u=u,
        high=codes.high,
        low=codes.low,
        bias=codes.bias,
        limits=codes.limits,
        transposed=codes.transposed,
        ranks=ranks,
        out=out,
        listed=listed,
        listed_count=listed_count,
        scratch=u.new_empty(programs, BLOCK_N, Kp),
        errors=u.new_empty(programs, BLOCK_N),
        D=D,
        K=K,
        Kp=Kp,
        Dp=Dp,
        SPLIT=codes.split,
        PRODUCT=codes.product,
        BLOCK_N=BLOCK_N,
        BLOCK_K=BLOCK_K,
        BLOCK_D=block_d(D),
        ROWS=max(1, min(4, 16384 // block)),  # whose scores 256 threads hold
        BLOCK=block,
        num_warps=min(32, max(8, block // 2048)),
        **DEFINITION,
    )
