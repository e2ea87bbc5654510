"""The code of a given rank where one pass over the codebook tells it: a lane keeps the best few codes that it meets.

As in the lookup (nearest.py) a lane meets one code of every tile, and a score carries the number of its tile in its
last bits. The codes of low rank lie scattered over the lanes, so the best eight of each lane hold them all for most
rows. A row is decided where one code alone has a score within twice the error of the one at its rank, and no lane may
hide another. Between a few such codes settle.py decides; the rows left are listed on the device for the kernel of
select.py.
"""

import triton
import triton.language as tl
from torch import Tensor

from .codes import BLOCK_K, TILES_AT_ONCE, PreparedCodebook, block_d
from .launch import launch
from .nearest import NearestLists, decide, write_nearest
from .scores import WORST_SCORE, row_block, split_half, tile_error, tile_scores
from .settle import NONE, settle

BLOCK_N = 32  # rows of a program
FEW = 150  # nearest codes, of which a lane out of 64 rarely has more than it keeps; more take twice as many lanes
LEVELS = tl.constexpr(8)  # scores that a lane keeps: `merged` is made for eight
CANDIDATES = 8  # codes between which settle.py decides


@triton.jit
def lane_counts(top, bound, LEVELS: tl.constexpr):
    """How many of LEVELS matrices (n, m), which fall from one to the next, are at least `bound` (n,): int32 (n, m)."""
    bound = bound[:, None]
    if LEVELS == 8:  # the first seven by halves
        has_four = top[3] >= bound
        has_two = tl.where(has_four, top[5], top[1]) >= bound
        last = tl.where(has_four, tl.where(has_two, top[6], top[4]), tl.where(has_two, top[2], top[0]))
        count = tl.where(has_four, 4, 0) + tl.where(has_two, 2, 0) + (last >= bound).to(tl.int32)
        count += (top[7] >= bound).to(tl.int32)
    else:
        count = (top[0] >= bound).to(tl.int32)
        for level in tl.static_range(1, LEVELS):
            count += (top[level] >= bound).to(tl.int32)
    return count


@triton.jit
def _lowest(top, LEVELS: tl.constexpr):
    """The lowest kept score of each row that is of a code."""
    found = tl.where(top[0] > WORST_SCORE / 2, top[0], float("inf"))
    for level in tl.static_range(1, LEVELS):
        found = tl.minimum(found, tl.where(top[level] > WORST_SCORE / 2, top[level], float("inf")))
    return tl.min(found, 1)


@triton.jit
def bracket(kept, rank, error, LEVELS: tl.constexpr):
    """For each row of kept scores, LEVELS matrices (n, m) of which the first has the best: bounds floor <= ceiling,
    between which the one at `rank` lies and few others; floor is -infinity where there are not so many scores of codes.

    Bisection between the lowest and the best until one score is left between the bounds, or no number, or they are
    closer than four times the error of a score: as much is taken to be near around them.
    """
    floor, ceiling = _lowest(kept, LEVELS), tl.max(kept[0], 1)
    from_floor = tl.sum(lane_counts(kept, floor, LEVELS), 1)
    from_ceiling = tl.full(rank.shape, 1, tl.int32)  # or more, where codes are the same: these are near
    floor = tl.where(from_floor > rank, floor, float("-inf"))
    middle = floor + (ceiling - floor) * 0.5
    is_open = (floor < middle) & (middle < ceiling) & (ceiling - floor > 4 * error)
    while tl.max(is_open.to(tl.int32), 0) > 0:
        from_middle = tl.sum(lane_counts(kept, middle, LEVELS), 1)
        rises, falls = is_open & (from_middle > rank), is_open & (from_middle <= rank)
        floor, from_floor = tl.where(rises, middle, floor), tl.where(rises, from_middle, from_floor)
        ceiling, from_ceiling = tl.where(falls, middle, ceiling), tl.where(falls, from_middle, from_ceiling)
        middle = tl.where(from_floor - from_ceiling == 1, ceiling, floor + (ceiling - floor) * 0.5)
        is_open = (floor < middle) & (middle < ceiling) & (ceiling - floor > 4 * error)
    return floor, ceiling


@triton.jit
def _level(top, which):
    """Element by element the matrix of `which` (n, m) of eight matrices; the last where there is none."""
    upper = which >= 4
    a, b = tl.where(upper, top[4], top[0]), tl.where(upper, top[5], top[1])
    c, d = tl.where(upper, top[6], top[2]), tl.where(upper, top[7], top[3])
    third = (which & 2) > 0
    a, b = tl.where(third, c, a), tl.where(third, d, b)
    return tl.where((which & 1) > 0, b, a)


@triton.jit
def _merged(top, a, b, c, d):
    """The best eight of eight matrices, which fall from one to the next, and four more, element by element; they fall,
    too. Thirty-eight minima and maxima, where inserting one matrix after the other takes sixty-four."""
    a, b, c, d = tl.maximum(a, b), tl.minimum(a, b), tl.maximum(c, d), tl.minimum(c, d)
    a, b, c, d = tl.maximum(a, c), tl.maximum(b, d), tl.minimum(a, c), tl.minimum(b, d)
    b, c = tl.maximum(b, c), tl.minimum(b, c)
    kept = (top[0], top[1], top[2], top[3])  # the best eight, which fall, then rise: sorted by three rounds of halves
    kept = kept + (tl.maximum(top[4], d), tl.maximum(top[5], c), tl.maximum(top[6], b), tl.maximum(top[7], a))
    for log in tl.static_range(3):
        before, kept = kept, ()
        for level in tl.static_range(8):
            if level & (4 >> log):
                kept = kept + (tl.minimum(before[level - (4 >> log)], before[level]),)
            else:
                kept = kept + (tl.maximum(before[level], before[level + (4 >> log)]),)
    return kept


@triton.jit
def _select_top_kernel(
    u,  # *f32 (R, D)
    high,  # *f16 (Kp, Dp); *f32 without SPLIT
    bias,  # *f32 (Kp)
    limits,  # *f32 (2)
    tile_numbers,  # *i32 (Kp / BLOCK_K)
    ranks,  # *i32 (R)
    found_entries,  # *i32 (R, 4): of the nearest codes, see nearest.py; None where they are not wanted
    tied,  # *i32 (R, 2): the same
    tied_count,  # *i32 (1): the same
    entries,  # *i32 (R, 2 + CANDIDATES): rows with the codes between which their code is, as `settle` takes them
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
    CANDIDATES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid (R / BLOCK_N). TILES: a power of two, more than the number of the last tile. WIDE: a row is longer than one
    product takes."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < R
    entry = entries + (2 + CANDIDATES) * n.to(tl.int64)
    rank = tl.load(ranks + n, mask=inside, other=0)
    if (tl.max(rank, 0) > 0) | (found_entries is not None):
        x_high, x_low = split_half(row_block(u, n, tl.arange(0, BLOCK_D), inside, D))
        worst, lane = tl.full((BLOCK_N, BLOCK_K), WORST_SCORE, tl.float32), tl.arange(0, BLOCK_K)
        top = (worst, worst, worst, worst, worst, worst, worst, worst)
        for start in range(0, K, 4 * BLOCK_K):
            new = ()
            for i in tl.static_range(4):
                bias_i = bias + start + i * BLOCK_K
                scores = tile_scores(u, x_high, x_low, high, bias_i, n, lane, inside, D, Dp, SPLIT, WIDE, True, BLOCK_D)
                high += BLOCK_K * Dp
                packed = (scores.to(tl.int32, bitcast=True) & -TILES) + tl.load(tile_numbers + start // BLOCK_K + i)
                new = new + (packed.to(tl.float32, bitcast=True),)
            top = _merged(top, new[0], new[1], new[2], new[3])

        packing = TILES * 1.1920929e-07  # the number of a tile replaces the last bits of a score
        error = tile_error(u, n, inside, limits, packing, D, Dp, SPLIT, PRODUCT, True, BLOCK_D)
        if found_entries is not None:
            write_nearest(top[0], top[1], error, n, inside, found_entries, tied, tied_count, TILES, 1, BLOCK_K)
        floor, ceiling = bracket(top, rank, error, LEVELS)
        is_fine = inside & (rank > 0) & (error < float("inf")) & (floor > float("-inf"))
        floor, ceiling = floor - 2 * error, ceiling + 2 * error
        above, near = lane_counts(top, ceiling, LEVELS), lane_counts(top, floor, LEVELS)
        is_hidden = tl.max(near, 1) == LEVELS  # the worst that a lane keeps is near: it may have dropped another
        near -= above
        count = tl.sum(near, 1)
        is_fine = is_fine & (is_hidden == 0) & (count <= CANDIDATES) & (tl.max(near, 1) <= 2)
        tl.store(entry, tl.where(is_fine, n, -1), mask=inside)
        tl.store(entry + 1, rank - tl.sum(above, 1), mask=is_fine)
        place = entry[:, None] + 2 + (tl.cumsum(near, 1) - near)
        for i in tl.static_range(2):
            score = _level(top, above + i)
            code = (score.to(tl.int32, bitcast=True) & (TILES - 1)) * BLOCK_K + lane[None, :]
            tl.store(place + i, code, mask=is_fine[:, None] & (near > i))
        slot = tl.arange(0, CANDIDATES)[None, :]
        tl.store(entry[:, None] + 2 + slot, NONE, mask=is_fine[:, None] & (slot >= count[:, None]))
        is_left = inside & (rank > 0) & (is_fine == 0)
        tl.store(listed + tl.atomic_add(listed_count + tl.zeros_like(n), 1, mask=is_left), n, mask=is_left)
    else:
        tl.store(entry, -1, mask=inside)


def select_top(
    u: Tensor, codes: PreparedCodebook, ranks: Tensor, out: Tensor, nearest: Tensor | None, delta: int | None
) -> tuple[Tensor, Tensor]:
    """Write the codes at ranks (R,) int32 of float32 rows (R, D) to out (R,) int64 where this pass decides them; rows
    of rank 0 keep what it has. With nearest (R,) int64 the nearest codes are written there, and to out at rank 0.
    Returns the numbers of the rows left, (R,) int32, and in (1,) int32 how many they are. delta: as in `select`.
    """
    (R, D), (Kp, Dp), K = u.shape, codes.high.shape, len(codes.rows)
    # Twice the lanes and half the rows take the same registers; of float32 rows they would take too much shared memory.
    is_high = delta is not None and delta > FEW and codes.split and Kp % (2 * TILES_AT_ONCE * BLOCK_K) == 0
    tile, rows = (2 * BLOCK_K, BLOCK_N // 2) if is_high else (BLOCK_K, BLOCK_N)
    listed, listed_count = ranks.new_empty(R), ranks.new_zeros(1)
    entries = ranks.new_empty(R, 2 + CANDIDATES)
    found = NearestLists(None, None, None) if nearest is None else NearestLists.empty(R, codes)
    launch(
        _select_top_kernel,
        (triton.cdiv(R, rows),),
        u=u,
        high=codes.high,
        bias=codes.bias,
        limits=codes.limits,
        tile_numbers=codes.tile_numbers,
        ranks=ranks,
        found_entries=found.entries,
        tied=found.tied,
        tied_count=found.tied_count,
        entries=entries,
        listed=listed,
        listed_count=listed_count,
        R=R,
        D=D,
        K=K,
        Dp=Dp,
        TILES=triton.next_power_of_2(Kp // tile),
        SPLIT=codes.split,
        PRODUCT=codes.product,
        WIDE=Dp > block_d(D),
        CANDIDATES=CANDIDATES,
        BLOCK_N=rows,
        BLOCK_K=tile,
        BLOCK_D=block_d(D),
        num_warps=8,
        num_stages=2 if is_high else 3,
    )
    if nearest is not None:
        decide(u, codes, found, 1, nearest)
        out.copy_(nearest)
    settle(u, codes, entries, 1, out)
    return listed, listed_count
