"""Nearest code, streamed: a block of rows meets the codebook tile by tile, and no (rows, codes) matrix exists.

A lane meets a group of codes of every tile, of which it takes the best score: one maximum a score. It keeps its two
best groups, each with the number of its tile in the last bits of the score: one logic operation, two maxima and one
minimum a group. The nearest code is in a group whose score is within twice the error of the best. Where these are one
or two, settle.py decides between their codes. Where they are more, or a lane may hide one, the row is listed on the
device, and a kernel tries all codes of the lanes that are near.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .codes import BLOCK_K, PreparedCodebook, block_d
from .launch import launch
from .rows import DEFINITION, distance_bits
from .scores import WORST_SCORE, row_block, tile_error, tile_scores
from .settle import NONE, settle

BLOCK_N = 128  # rows that share what is read of the codebook
PLAIN_BLOCK_N = 32  # of float32 rows, whose tiles take more shared memory
GROUP = 2  # neighbouring codes of a tile that a lane meets: a thread has their scores
TIE_LANES = tl.constexpr(BLOCK_K // GROUP)  # of a near tie: a bit each
TIE_PROGRAMS = 4096  # of a warp, which share the list of near ties: its length is known only on the device


class NearestLists(NamedTuple):
    """What one pass over the codebook tells of the nearest code of each of R rows."""

    entries: Tensor  # (R, 4) int32: the groups in which a row's code is, as `settle` takes them
    tied: Tensor  # (R, 2) int32: the list of rows that have none, each with a bit for every lane with a near code
    tied_count: Tensor  # (1,) int32, zero: length of the list

    @classmethod
    def empty(cls, R: int, codes: PreparedCodebook) -> "NearestLists":
        new = codes.tile_numbers.new_empty
        return cls(new(R, 4), new(R, 2), codes.tile_numbers.new_zeros(1))


@triton.jit
def write_nearest(
    best,
    second,
    error,
    n,
    inside,
    entries,  # *i32 (R, 4)
    tied,  # *i32 (R, 2)
    tied_count,  # *i32 (1)
    TILES: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """What the two best groups of each lane, (len(n), lanes) with the numbers of their tiles in the last bits, tell of
    rows n: see `NearestLists`. error: the largest of a score (len(n))."""
    LANES: tl.constexpr = BLOCK_K // GROUP
    reach = tl.max(best, 1) - 2 * error
    is_near = ((best < reach[:, None]) == 0).to(tl.int32)  # negated, so that NaN counts as near
    hidden = tl.sum(((second < reach[:, None]) == 0).to(tl.int32), 1)
    lane = tl.arange(0, LANES)[None, :]
    base = (best.to(tl.int32, bitcast=True) & (TILES - 1)) * BLOCK_K + lane * GROUP
    first, last = tl.min(tl.where(is_near > 0, base, NONE), 1), tl.max(tl.where(is_near > 0, base, -1), 1)
    is_told = (tl.sum(is_near, 1) <= 2) & (hidden == 0)
    entry = entries + 4 * n.to(tl.int64)
    tl.store(entry, tl.where(is_told, n, -1), mask=inside)
    tl.store(entry + 1, 0, mask=inside)
    tl.store(entry + 2, first, mask=inside)
    tl.store(entry + 3, tl.where(last > first, last, NONE), mask=inside)
    is_tied = inside & (is_told == 0)
    if LANES > TIE_LANES:  # neighbours together, and the same places of tiles that lie side by side
        is_near = tl.max(tl.reshape(is_near, (n.shape[0], LANES // (2 * TIE_LANES), TIE_LANES, 2)), 3)
        is_near = tl.max(is_near, 1)
    lanes = tl.sum(is_near << tl.arange(0, TIE_LANES)[None, :], 1)
    place = tied + 2 * tl.atomic_add(tied_count + tl.zeros_like(n), 1, mask=is_tied)
    tl.store(place, n, mask=is_tied)
    tl.store(place + 1, lanes, mask=is_tied)


@triton.jit
def _nearest_kernel(
    u,  # *f32 (R, D)
    high,  # *f16 (Kp, Dp); *f32 without SPLIT
    bias,  # *f32 (Kp)
    limits,  # *f32 (2)
    tile_numbers,  # *i32 (Kp / BLOCK_K)
    entries,  # *i32 (R, 4): see `NearestLists`
    tied,  # *i32 (R, 2)
    tied_count,  # *i32 (1)
    R,
    D,
    K,
    Dp,
    TILES: tl.constexpr,
    SPLIT: tl.constexpr,
    PRODUCT: tl.constexpr,
    WIDE: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid (R / BLOCK_N). One program owns BLOCK_N rows and reads the whole codebook, which stays in the cache.

    TILES: a power of two, more than the number of the last tile. WIDE: a row is longer than one product takes.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < R
    packing = TILES * 1.1920929e-07  # the number of a tile replaces the last bits of a score
    error = tile_error(u, n, inside, limits, packing, D, Dp, SPLIT, PRODUCT, False, BLOCK_D)
    x_high = row_block(u, n, tl.arange(0, BLOCK_D), inside, D).to(tl.float16)
    LANES: tl.constexpr = BLOCK_K // GROUP
    best = tl.full((BLOCK_N, LANES), WORST_SCORE, tl.float32)
    second = best
    column = tl.arange(0, BLOCK_K)
    for start in range(0, K, BLOCK_K):
        scores = tile_scores(u, x_high, None, high, bias + start, n, column, inside, D, Dp, SPLIT, WIDE, False, BLOCK_D)
        high += BLOCK_K * Dp
        groups = tl.max(tl.reshape(scores, (BLOCK_N, LANES, GROUP)), 2).to(tl.int32, bitcast=True)
        # The number of the tile is read from memory, so that the compiler adds it in the multiply-add pipe: the pipe of
        # logic and maxima is the bottleneck.
        packed = (groups & -TILES) + tl.load(tile_numbers + start // BLOCK_K)
        packed = packed.to(tl.float32, bitcast=True)
        second = tl.maximum(second, tl.minimum(packed, best))
        best = tl.maximum(best, packed)

    write_nearest(best, second, error, n, inside, entries, tied, tied_count, TILES, GROUP, BLOCK_K)


@triton.jit
def _resolve_ties_kernel(
    u,  # *f32 (R, D)
    transposed,  # *f32 (D, K)
    out,  # *i64 (R)
    tied,  # *i32 (R, 2)
    tied_count,  # *i32 (1)
    D,
    K,
    PRODUCT: tl.constexpr,
    TILES: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Any grid. Programs share the listed rows and decide each by the definition, among the codes of its lanes."""
    first = tl.arange(0, TILES) * BLOCK_K  # of the codes of a tile
    for i in range(tl.program_id(0), tl.load(tied_count), tl.num_programs(0)):
        n, lanes = tl.load(tied + 2 * i).to(tl.int64), tl.load(tied + 2 * i + 1)
        least, winner = tl.full((), 0x7FFFFFFFFFFFFFFF, tl.int64), K
        for lane in range(BLOCK_K // GROUP):
            if ((lanes >> lane) & 1) > 0:
                for member in range(GROUP):
                    k = first + lane * GROUP + member
                    bits = distance_bits(u + n * D, transposed, D, K, k, k < K, PRODUCT)
                    own = tl.min(bits, 0)
                    code = tl.min(tl.where(bits == own, k, K), 0)
                    is_better = (own < least) | ((own == least) & (code < winner))
                    winner, least = tl.where(is_better, code, winner), tl.minimum(own, least)
        tl.store(out + n, winner.to(tl.int64))


def nearest(u: Tensor, codes: PreparedCodebook, out: Tensor) -> None:
    """Write the nearest codes of float32 rows (R, D), by (distance, index), to out (R,) int64."""
    (R, D), (K, Dp) = u.shape, (len(codes.rows), codes.high.shape[1])
    if R == 0:
        return
    found = NearestLists.empty(R, codes)
    is_wide, rows = Dp > block_d(D), BLOCK_N if codes.split else PLAIN_BLOCK_N
    # 128 registers a thread: two programs share a multiprocessor, one scores while the other compares.
    registers = {"maxnreg": 128} if codes.split and not is_wide else {}
    launch(
        _nearest_kernel,
        (triton.cdiv(R, rows),),
        u=u,
        high=codes.high,
        bias=codes.bias,
        limits=codes.limits,
        tile_numbers=codes.tile_numbers,
        **found._asdict(),
        R=R,
        D=D,
        K=K,
        Dp=Dp,
        SPLIT=codes.split,
        PRODUCT=codes.product,
        WIDE=is_wide,
        TILES=codes.tiles,
        GROUP=GROUP,
        BLOCK_N=rows,
        BLOCK_K=BLOCK_K,
        BLOCK_D=block_d(D),
        num_warps=8,
        **registers,
    )
    decide(u, codes, found, GROUP, out)


def decide(u: Tensor, codes: PreparedCodebook, found: NearestLists, group: int, out: Tensor) -> None:
    """Write the nearest codes of float32 rows (R, D) to out (R,) int64, found in groups of `group` codes."""
    settle(u, codes, found.entries, group, out)
    launch(
        _resolve_ties_kernel,
        (min(len(u), TIE_PROGRAMS),),
        u=u,
        transposed=codes.transposed,
        out=out,
        tied=found.tied,
        tied_count=found.tied_count,
        D=u.shape[1],
        K=len(codes.rows),
        PRODUCT=codes.product,
        TILES=codes.tiles,
        GROUP=GROUP,
        BLOCK_K=BLOCK_K,
        num_warps=1,
        **DEFINITION,
    )
