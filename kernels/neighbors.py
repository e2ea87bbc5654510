"""The nearest few codes of each row, in order: the scores name the candidates, and the definition orders these.

As in the lookup (nearest.py) a lane meets one code of every tile, and a score from one product carries the number of
its tile in its last bits; a lane keeps its best LEVELS. Candidates are the codes whose score is within twice the error
of the one at rank delta - 1: no other can be among the first delta. Rows whose scores say nothing, for which a lane may
hide a candidate, or that have too many, are listed on the device and go by all their distances.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .codes import BLOCK_K, PreparedCodebook, block_d
from .launch import launch
from .rows import DEFINITION, INFINITE, distance_bits, gathered_distance_bits
from .scores import WORST_SCORE, row_block, tile_error, tile_scores
from .select_top import bracket

BLOCK_N = 16  # rows of a program
LEVELS = 12  # scores that a lane keeps: of 200 nearest codes on 64 lanes rarely more are on one, nor of 400 on 128
FEW = 200  # codes that are wanted on 64 lanes; more take twice as many lanes
SPARE = 16  # candidates that a row may have beyond those wanted
MAX_ROOM = 512  # candidates that are ordered at once
CANDIDATES = 1 << 21  # in memory, with their distances (24 MiB)
REST_PROGRAMS = 1024  # how many rows are left is known only on the device


@triton.jit
def _candidates_kernel(
    u,  # *f32 (R, D)
    high,  # *f16 (Kp, Dp); *f32 without SPLIT
    bias,  # *f32 (Kp)
    limits,  # *f32 (2)
    tile_numbers,  # *i32 (Kp / BLOCK_K)
    found,  # *i32 (R, ROOM): candidates of each row, in any order
    counts,  # *i32 (R): how many; 0: the row is listed
    listed,  # *i32 (R): rows left
    listed_count,  # *i32 (1), zero
    R,
    D,
    K,
    Dp,
    delta,
    TILES: tl.constexpr,
    SPLIT: tl.constexpr,
    PRODUCT: tl.constexpr,
    WIDE: tl.constexpr,
    LEVELS: tl.constexpr,
    ROOM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid (R / BLOCK_N). One program owns BLOCK_N rows. TILES and WIDE as in the lookup."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < R
    x_high = row_block(u, n, tl.arange(0, BLOCK_D), inside, D).to(tl.float16)
    top, lane = (), tl.arange(0, BLOCK_K)
    for _ in tl.static_range(LEVELS):
        top = top + (tl.full((BLOCK_N, BLOCK_K), WORST_SCORE, tl.float32),)
    for start in range(0, K, BLOCK_K):
        scores = tile_scores(u, x_high, None, high, bias + start, n, lane, inside, D, Dp, SPLIT, WIDE, False, BLOCK_D)
        high += BLOCK_K * Dp
        packed = (scores.to(tl.int32, bitcast=True) & -TILES) + tl.load(tile_numbers + start // BLOCK_K)
        entering, kept = packed.to(tl.float32, bitcast=True), ()
        for level in tl.static_range(LEVELS):
            kept = kept + (tl.maximum(top[level], entering),)
            entering = tl.minimum(top[level], entering)
        top = kept

    packing = TILES * 1.1920929e-07  # the number of a tile replaces the last bits of a score
    error = tile_error(u, n, inside, limits, packing, D, Dp, SPLIT, PRODUCT, False, BLOCK_D)
    floor, _ = bracket(top, tl.full((BLOCK_N,), 0, tl.int32) + delta - 1, error, LEVELS)
    is_fine = inside & (error < float("inf")) & (floor > float("-inf"))
    floor -= 2 * error
    of_lane = tl.zeros((BLOCK_N, BLOCK_K), tl.int32)
    for level in tl.static_range(LEVELS):
        of_lane += (top[level] >= floor[:, None]).to(tl.int32)
    count = tl.sum(of_lane, 1)
    is_fine = is_fine & (count <= ROOM) & (tl.max(of_lane, 1) < LEVELS)
    place = found + n.to(tl.int64)[:, None] * ROOM + tl.cumsum(of_lane, 1) - of_lane
    for level in tl.static_range(LEVELS):  # the best of a lane come first
        code = (top[level].to(tl.int32, bitcast=True) & (TILES - 1)) * BLOCK_K + lane[None, :]
        tl.store(place + level, code, mask=is_fine[:, None] & (level < of_lane))
    tl.store(counts + n, tl.where(is_fine, count, 0), mask=inside)
    is_left = inside & (is_fine == 0)
    tl.store(listed + tl.atomic_add(listed_count + tl.zeros_like(n), 1, mask=is_left), n, mask=is_left)


@triton.jit
def _order_kernel(
    u,  # *f32 (R, D)
    rows,  # *f32 (K, D): the codes
    out,  # *i64 (R, delta)
    found,  # *i32 (R, ROOM)
    counts,  # *i32 (R)
    distances,  # *i64 (R, ROOM): scratch
    D,
    delta,
    PRODUCT: tl.constexpr,
    ROOM: tl.constexpr,
):
    """Grid (R). One program orders the candidates of one row by (distance, index)."""
    n = tl.program_id(0).to(tl.int64)
    count = tl.load(counts + n)
    if count > 0:
        place = tl.arange(0, ROOM)
        is_code = place < count
        k = tl.load(found + n * ROOM + place, mask=is_code, other=0)
        row = u + n * D + tl.zeros_like(k)
        bits = gathered_distance_bits(row, rows + k.to(tl.int64) * D, D, is_code, PRODUCT)
        tl.store(distances + n * ROOM + place, bits, mask=is_code)
        tl.debug_barrier()  # other threads read them
        rank = tl.zeros_like(k)
        for i in range(count):
            other, code = tl.load(distances + n * ROOM + i), tl.load(found + n * ROOM + i)
            rank += ((other < bits) | ((other == bits) & (code < k))).to(tl.int32)
        tl.store(out + n * delta + rank, k.to(tl.int64), mask=is_code & (rank < delta))


@triton.jit
def _rest_kernel(
    u,  # *f32 (R, D)
    transposed,  # *f32 (D, K)
    out,  # *i64 (R, delta)
    listed,  # *i32 (R)
    listed_count,  # *i32 (1)
    D,
    K,
    delta,
    PRODUCT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Any grid. Programs share the listed rows: all distances of a row, of which the least is taken again and again."""
    k = tl.arange(0, BLOCK)
    for i in range(tl.program_id(0), tl.load(listed_count), tl.num_programs(0)):
        n = tl.load(listed + i).to(tl.int64)
        bits = tl.where(k < K, distance_bits(u + n * D, transposed, D, K, k, k < K, PRODUCT), INFINITE + 1)
        for rank in range(delta):
            least = tl.min(bits, 0)
            winner = tl.min(tl.where(bits == least, k, K), 0)
            tl.store(out + n * delta + rank, winner.to(tl.int64))
            bits = tl.where(k == winner, INFINITE + 1, bits)


def neighbors(u: Tensor, codes: PreparedCodebook, out: Tensor) -> None:
    """Write the nearest codes of float32 rows (R, D), by (distance, index), to out (R, delta) int64."""
    if len(u) == 0:
        return
    room = triton.next_power_of_2(out.shape[1] + SPARE)
    step = CANDIDATES // min(room, MAX_ROOM)
    for rows, written in zip(u.split(step), out.split(step), strict=True):
        if room <= MAX_ROOM:
            listed, listed_count = _order_candidates(rows, codes, written, room)
        else:
            listed = torch.arange(len(rows), dtype=torch.int32, device=u.device)
            listed_count = torch.full((1,), len(rows), dtype=torch.int32, device=u.device)
        _order_all(rows, codes, written, listed, listed_count)


def _order_candidates(u: Tensor, codes: PreparedCodebook, out: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """`neighbors` of the rows that scores decide. Returns the others' numbers, (R,) int32, and how many, (1,) int32."""
    (R, D), (Kp, Dp), delta = u.shape, codes.high.shape, out.shape[1]
    tile = BLOCK_K if delta <= FEW else 2 * BLOCK_K
    found = torch.empty(R, room, dtype=torch.int32, device=u.device)
    counts, listed = found.new_empty(R), found.new_empty(R)
    listed_count = found.new_zeros(1)
    launch(
        _candidates_kernel,
        (triton.cdiv(R, BLOCK_N),),
        u=u,
        high=codes.high,
        bias=codes.bias,
        limits=codes.limits,
        tile_numbers=codes.tile_numbers,
        found=found,
        counts=counts,
        listed=listed,
        listed_count=listed_count,
        R=R,
        D=D,
        K=len(codes.rows),
        Dp=Dp,
        delta=delta,
        TILES=triton.next_power_of_2(Kp // tile),
        SPLIT=codes.split,
        PRODUCT=codes.product,
        WIDE=Dp > block_d(D),
        LEVELS=LEVELS,
        ROOM=room,
        BLOCK_N=BLOCK_N,
        BLOCK_K=tile,
        BLOCK_D=block_d(D),
        num_warps=tile // 16,  # a thread has as many scores on more lanes
    )
    launch(
        _order_kernel,
        (R,),
        u=u,
        rows=codes.rows,
        out=out,
        found=found,
        counts=counts,
        distances=found.new_empty(R, room, dtype=torch.int64),
        D=D,
        delta=delta,
        PRODUCT=codes.product,
        ROOM=room,
        num_warps=max(1, room // 32),
        **DEFINITION,
    )
    return listed, listed_count


def _order_all(u: Tensor, codes: PreparedCodebook, out: Tensor, listed: Tensor, listed_count: Tensor) -> None:
    """`neighbors` of the listed rows."""
    K, D = codes.rows.shape
    block = triton.next_power_of_2(K)
    launch(
        _rest_kernel,
        (min(len(u), REST_PROGRAMS),),
        u=u,
        transposed=codes.transposed,
        out=out,
        listed=listed,
        listed_count=listed_count,
        D=D,
        K=K,
        delta=out.shape[1],
        PRODUCT=codes.product,
        BLOCK=block,
        num_warps=min(32, max(4, block // 1024)),
        **DEFINITION,
    )
