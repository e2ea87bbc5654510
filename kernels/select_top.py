"""The code of a given rank for each row, in one pass over the codebook: a lane keeps the best few codes that it meets.

As in the lookup (nearest.py) a lane meets one code of every tile, and a score carries the number of its tile in its
last bits. The codes of low rank lie scattered over the lanes, so the best LEVELS of each lane hold them all for most
rows. A row is decided where one code alone has a score within twice the error of the one at its rank, and no lane may
hide another. Between a few such codes a second kernel decides by the definition; the rows left are listed on the device
for the kernel of select.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .codes import BLOCK_K, PreparedCodebook, block_d
from .rows import DEFINITION, INFINITE, distance_bits
from .scores import WORST_SCORE, add_split_products, length_of, row_block, split_error, split_half, split_scores

BLOCK_N = 32  # rows of a program
LEVELS = 8  # scores that a lane keeps
CANDIDATES = 4  # codes of a near tie that is settled on its own
SETTLED = 8  # near ties of a warp
SETTLE_PROGRAMS = 4096  # of a warp: how many near ties there are is known only on the device
NONE = tl.constexpr(0x7FFFFFFF)  # no code


@triton.jit
def _count_from(top, bound, LEVELS: tl.constexpr):
    """How many kept scores of each row are at least `bound` (BLOCK_N,)."""
    count = (top[0] >= bound[:, None]).to(tl.int32)
    for level in tl.static_range(1, LEVELS):
        count += (top[level] >= bound[:, None]).to(tl.int32)
    return tl.sum(count, 1)


@triton.jit
def _lowest(top, LEVELS: tl.constexpr):
    """The lowest kept score of each row that is of a code."""
    found = tl.where(top[0] > WORST_SCORE / 2, top[0], float("inf"))
    for level in tl.static_range(1, LEVELS):
        found = tl.minimum(found, tl.where(top[level] > WORST_SCORE / 2, top[level], float("inf")))
    return tl.min(found, 1)


@triton.jit
def bracket(kept, rank, LEVELS: tl.constexpr):
    """For each row of kept scores, LEVELS matrices (n, m) of which the first has the best: bounds floor <= ceiling,
    between which the one at `rank` lies and few others; floor is -infinity where there are not so many scores of codes.

    Bisection between the lowest and the best until one score is left between the bounds, or no number.
    """
    floor, ceiling = _lowest(kept, LEVELS), tl.max(kept[0], 1)
    from_floor, from_ceiling = _count_from(kept, floor, LEVELS), _count_from(kept, ceiling, LEVELS)
    floor = tl.where(from_floor > rank, floor, float("-inf"))
    middle = floor + (ceiling - floor) * 0.5
    while tl.max(((floor < middle) & (middle < ceiling)).to(tl.int32), 0) > 0:
        is_open, from_middle = (floor < middle) & (middle < ceiling), _count_from(kept, middle, LEVELS)
        rises, falls = is_open & (from_middle > rank), is_open & (from_middle <= rank)
        floor, from_floor = tl.where(rises, middle, floor), tl.where(rises, from_middle, from_floor)
        ceiling, from_ceiling = tl.where(falls, middle, ceiling), tl.where(falls, from_middle, from_ceiling)
        middle = tl.where(from_floor - from_ceiling == 1, ceiling, floor + (ceiling - floor) * 0.5)
    return floor, ceiling


@triton.jit
def _select_top_kernel(
    u,  # *f32 (R, D)
    high,  # *f16 (Kp, Dp); *f32 without SPLIT
    low,  # *f16 (Kp, Dp); None without SPLIT
    bias,  # *f32 (Kp)
    limits,  # *f32 (2)
    ranks,  # *i32 (R)
    out,  # *i64 (R): rows of rank 0 keep what it has
    tied,  # *i32 (R, 2 + CANDIDATES): near ties, of a row, the rank among its candidates, and these in ascending order
    tied_count,  # *i32 (1), zero
    listed,  # *i32 (R): rows left
    listed_count,  # *i32 (1), zero
    R,
    D,
    K,
    Dp,
    TILES: tl.constexpr,
    SPLIT: tl.constexpr,
    PRODUCT: tl.constexpr,
    WIDE: tl.constexpr,
    LEVELS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid (R / BLOCK_N). TILES: a power of two, more than the number of the last tile. WIDE: a row is longer than one
    product takes."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < R
    rank = tl.load(ranks + n, mask=inside, other=0)
    if tl.max(rank, 0) > 0:
        squares = tl.zeros((BLOCK_N,), tl.float32)
        for d0 in range(0, Dp, BLOCK_D):
            x = row_block(u, n, d0 + tl.arange(0, BLOCK_D), inside, D)
            squares += tl.sum(x * x, 1)
        error = split_error(length_of(squares, D), limits, TILES * 1.1920929e-07, D, SPLIT, PRODUCT)
        d = tl.arange(0, BLOCK_D)
        if SPLIT and not WIDE:
            x_high, x_low = split_half(row_block(u, n, d, inside, D))
        top = ()
        for _ in tl.static_range(LEVELS):
            top = top + (tl.full((BLOCK_N, BLOCK_K), WORST_SCORE, tl.float32),)
        for start in range(0, K, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            if SPLIT and not WIDE:
                place = k.to(tl.int64)[None, :] * Dp + d[:, None]
                scores = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
                scores = add_split_products(scores, x_high, x_low, tl.load(high + place), tl.load(low + place))
                scores += tl.load(bias + k)[None, :]
            else:
                scores = split_scores(u, high, low, bias, n, k, inside, D, Dp, SPLIT, BLOCK_D)
            scores = tl.maximum(scores, WORST_SCORE)  # NaN, of a code that is not finite, counts as the worst
            packed = (scores.to(tl.int32, bitcast=True) & -TILES) + start // BLOCK_K
            entering, kept = packed.to(tl.float32, bitcast=True), ()
            for level in tl.static_range(LEVELS):
                kept = kept + (tl.maximum(top[level], entering),)
                entering = tl.minimum(top[level], entering)
            top = kept

        floor, ceiling = bracket(top, rank, LEVELS)
        is_fine = (error < float("inf")) & (floor > float("-inf"))
        floor, ceiling = floor - 2 * error, ceiling + 2 * error
        above, count = tl.zeros((BLOCK_N,), tl.int32), tl.zeros((BLOCK_N,), tl.int32)
        for level in tl.static_range(LEVELS):
            is_above = top[level] > ceiling[:, None]
            above += tl.sum(is_above.to(tl.int32), 1)
            count += tl.sum(((top[level] >= floor[:, None]) & (is_above == 0)).to(tl.int32), 1)
        is_fine = is_fine & (rank > 0) & (tl.max(top[LEVELS - 1], 1) < floor)
        is_tied = is_fine & (count > 1) & (count <= CANDIDATES)
        entry = tied + (2 + CANDIDATES) * tl.atomic_add(tied_count + tl.zeros_like(n), 1, mask=is_tied)
        tl.store(entry, n, mask=is_tied)
        tl.store(entry + 1, rank - above, mask=is_tied)
        lane, last = tl.arange(0, BLOCK_K)[None, :], tl.full((BLOCK_N,), -1, tl.int32)
        for candidate in tl.static_range(CANDIDATES):
            code = tl.full((BLOCK_N,), NONE, tl.int32)
            for level in tl.static_range(LEVELS):
                codes = (top[level].to(tl.int32, bitcast=True) & (TILES - 1)) * BLOCK_K + lane
                is_next = (top[level] >= floor[:, None]) & (top[level] <= ceiling[:, None]) & (codes > last[:, None])
                code = tl.minimum(code, tl.min(tl.where(is_next, codes, NONE), 1))
            if candidate == 0:
                tl.store(out + n, code.to(tl.int64), mask=is_fine & (count == 1))
            tl.store(entry + 2 + candidate, code, mask=is_tied)
            last = code
        is_left = inside & (rank > 0) & ((is_fine & (count >= 1) & (count <= CANDIDATES)) == 0)
        tl.store(listed + tl.atomic_add(listed_count + tl.zeros_like(n), 1, mask=is_left), n, mask=is_left)


@triton.jit
def _settle_kernel(
    u,  # *f32 (R, D)
    transposed,  # *f32 (D, K)
    out,  # *i64 (R)
    tied,  # *i32 (R, 2 + CANDIDATES), as above
    tied_count,  # *i32 (1)
    D,
    K,
    PRODUCT: tl.constexpr,
    CANDIDATES: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Any grid. Programs share the near ties, BLOCK_N at a time: the definition orders the candidates of each."""
    count = tl.load(tied_count)
    for begin in range(tl.program_id(0) * BLOCK_N, count, tl.num_programs(0) * BLOCK_N):
        place = begin + tl.arange(0, BLOCK_N)
        inside = place < count
        entry = tied + (2 + CANDIDATES) * place
        n = tl.load(entry, mask=inside, other=0)
        wanted = tl.load(entry + 1, mask=inside, other=0)
        codes = tl.load(entry[:, None] + 2 + tl.arange(0, CANDIDATES)[None, :], mask=inside[:, None], other=NONE)
        is_code = codes < NONE
        rows = u + n.to(tl.int64)[:, None] * D
        bits = distance_bits(rows, transposed, D, K, tl.where(is_code, codes, 0), is_code, PRODUCT)
        bits = tl.where(is_code, bits, INFINITE + 1)
        for candidate in tl.static_range(CANDIDATES):
            here = tl.arange(0, CANDIDATES)[None, :] == candidate
            own = tl.sum(tl.where(here, bits, 0), 1)
            code = tl.sum(tl.where(here, codes, 0), 1)
            before = (bits < own[:, None]) | ((bits == own[:, None]) & (codes < code[:, None]))
            found = inside & (code < NONE) & (tl.sum(before.to(tl.int32), 1) == wanted)
            tl.store(out + n, code.to(tl.int64), mask=found)


def select_top(u: Tensor, codes: PreparedCodebook, ranks: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Write the codes at ranks (R,) int32 of float32 rows (R, D) to out (R,) int64 where this pass decides them; rows
    of rank 0 keep what it has. Returns the numbers of the rows left, (R,) int32, and in (1,) int32 how many they are.
    """
    (R, D), (Kp, Dp), K = u.shape, codes.high.shape, len(codes.rows)
    listed, listed_count = torch.empty_like(ranks), ranks.new_zeros(1)
    ties = {"tied": ranks.new_empty(R, 2 + CANDIDATES), "tied_count": ranks.new_zeros(1), "CANDIDATES": CANDIDATES}
    both = {"u": u, "out": out, "D": D, "K": K, "PRODUCT": codes.product, **ties}
    _select_top_kernel[(triton.cdiv(R, BLOCK_N),)](
        **both,
        high=codes.high,
        low=codes.low,
        bias=codes.bias,
        limits=codes.limits,
        ranks=ranks,
        listed=listed,
        listed_count=listed_count,
        R=R,
        Dp=Dp,
        TILES=triton.next_power_of_2(Kp // BLOCK_K),
        SPLIT=codes.split,
        WIDE=Dp > block_d(D),
        LEVELS=LEVELS,
        BLOCK_N=BLOCK_N,
        BLOCK_K=BLOCK_K,
        BLOCK_D=block_d(D),
        num_warps=8,
    )
    _settle_kernel[(min(triton.cdiv(R, SETTLED), SETTLE_PROGRAMS),)](
        **both, transposed=codes.transposed, BLOCK_N=SETTLED, num_warps=1, **DEFINITION
    )
    return listed, listed_count
