"""Nearest code, streamed: a block of rows meets the codebook tile by tile, and no (rows, codes) matrix exists.

A lane meets one code of every tile and keeps its two best scores, each with the number of its tile in the last bits: a
score costs one logic operation, two maxima and one minimum. A row is decided where one code alone has a score within
twice the error of the best. The other rows have a near tie: they are listed on the device, and a second kernel decides
them by the definition.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .codes import BLOCK_K, PreparedCodebook, block_d
from .rows import DEFINITION, distance_bits
from .scores import WORST_SCORE, length_of, row_block, score_error, split_error, split_scores

BLOCK_N = 128  # rows that share what is read of the codebook
PLAIN_BLOCK_N = 32  # of float32 rows, whose tiles take more shared memory
SETTLED_CODES = 256  # of a near tie at a time, where more than two are near
TIE_PROGRAMS = 4096  # of a warp, which share the list of near ties: its length is known only on the device


@triton.jit
def _packed_error(
    u,  # *f32 (R, D)
    n,
    inside,
    limits,  # *f32 (2)
    D,
    Dp,
    TILES: tl.constexpr,
    SPLIT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Largest error (len(n)) of the scores of rows n, whose last bits the number of a tile replaces."""
    squares, rest = tl.zeros(n.shape, tl.float32), tl.zeros(n.shape, tl.float32)
    for d0 in range(0, Dp, BLOCK_D):
        x = row_block(u, n, d0 + tl.arange(0, BLOCK_D), inside, D)
        left = x - x.to(tl.float16).to(tl.float32) if SPLIT else tl.zeros_like(x)
        squares, rest = squares + tl.sum(x * x, 1), rest + tl.sum(left * left, 1)
    length, packing = length_of(squares, D), TILES * 1.1920929e-07
    if SPLIT:
        residual, max_norm, max_residual = length_of(rest, D), tl.load(limits), tl.load(limits + 1)
        rounded = residual * max_norm + (length + residual) * max_residual
        error = score_error(length, max_norm, rounded, (2 * D + 8) * 1.1920929e-07 + packing, D, PRODUCT)
    else:
        error = split_error(length, limits, packing, D, SPLIT, PRODUCT)
    return error


@triton.jit
def _nearest_kernel(
    u,  # *f32 (R, D)
    high,  # *f16 (Kp, Dp); *f32 without SPLIT
    bias,  # *f32 (Kp)
    limits,  # *f32 (2)
    tile_numbers,  # *i32 (Kp / BLOCK_K)
    out,  # *i64 (R)
    errors,  # *f32 (R): scratch
    tied,  # *i64 (R, 3): the list of near ties; see the end of the kernel
    tied_count,  # *i32 (1), zero: length of the list
    R,
    D,
    K,
    Dp,
    TILES: tl.constexpr,
    SPLIT: tl.constexpr,
    PRODUCT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid (R / BLOCK_N). One program owns BLOCK_N rows and reads the whole codebook, which stays in the cache.

    TILES: a power of two, more than the number of the last tile. WIDE: a row is longer than one product takes.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < R
    # The error waits in memory for the end: registers for it would be taken from the loop.
    tl.store(errors + n, _packed_error(u, n, inside, limits, D, Dp, TILES, SPLIT, PRODUCT, BLOCK_D), mask=inside)
    tl.debug_barrier()  # other threads read it

    d = tl.arange(0, BLOCK_D)
    if SPLIT and not WIDE:
        x_high = row_block(u, n, d, inside, D).to(tl.float16)
    best = tl.full((BLOCK_N, BLOCK_K), WORST_SCORE, tl.float32)
    second = best
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        if not SPLIT:
            scores = split_scores(u, high, None, bias, n, k, inside, D, Dp, SPLIT, BLOCK_D)
        else:
            tile = high + k.to(tl.int64)[None, :] * Dp
            if WIDE:
                scores = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
                for d0 in range(0, Dp, BLOCK_D):
                    x = row_block(u, n, d0 + d, inside, D).to(tl.float16)
                    scores = tl.dot(x, tl.load(tile + (d0 + d)[:, None]), scores)
            else:
                scores = tl.dot(x_high, tl.load(tile + d[:, None]))
            scores += tl.load(bias + k)[None, :]
        # The number of the tile is read from memory, so that the compiler adds it in the multiply-add pipe: the pipe of
        # logic and maxima is the bottleneck.
        packed = (scores.to(tl.int32, bitcast=True) & -TILES) + tl.load(tile_numbers + start // BLOCK_K)
        packed = packed.to(tl.float32, bitcast=True)
        second = tl.maximum(second, tl.minimum(packed, best))
        best = tl.maximum(best, packed)

    reach = tl.max(best, 1) - 2 * tl.load(errors + n, mask=inside, other=0.0)
    is_near = (best < reach[:, None]) == 0  # negated, so that NaN counts as near
    hidden = tl.sum(((second < reach[:, None]) == 0).to(tl.int32), 1)
    count = tl.sum(is_near.to(tl.int32), 1) + hidden
    lane = tl.arange(0, BLOCK_K)[None, :]
    code = (best.to(tl.int32, bitcast=True) & (TILES - 1)) * BLOCK_K + lane
    first, last = tl.min(tl.where(is_near, code, K), 1), tl.max(tl.where(is_near, code, -1), 1)
    tl.store(out + n, last.to(tl.int64), mask=inside & (count == 1))
    is_tied = inside & (count != 1)
    # Listed are the row and the two codes between which it stands; or the lanes in which a code is near, a bit each,
    # and -1: a lane may hide more codes than its two best scores show.
    lanes = tl.sum(tl.where(is_near, tl.full(is_near.shape, 1, tl.int64) << lane, 0), 1)
    is_pair = (count == 2) & (hidden == 0)
    place = tied + 3 * tl.atomic_add(tied_count + tl.zeros_like(n), 1, mask=is_tied)
    tl.store(place, n.to(tl.int64), mask=is_tied)
    tl.store(place + 1, tl.where(is_pair, first.to(tl.int64), lanes), mask=is_tied)
    tl.store(place + 2, tl.where(is_pair, last, -1).to(tl.int64), mask=is_tied)


@triton.jit
def _resolve_ties_kernel(
    u,  # *f32 (R, D)
    transposed,  # *f32 (D, K)
    out,  # *i64 (R)
    tied,  # *i64 (R, 3)
    tied_count,  # *i32 (1)
    D,
    K,
    PRODUCT: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Any grid. Programs share the listed rows and decide each by the definition: between two codes where it is known
    which, else among those of the lanes listed, by groups of GROUP lanes that hold one."""
    lanes = tl.arange(0, BLOCK_K)
    for i in range(tl.program_id(0), tl.load(tied_count), tl.num_programs(0)):
        entry = tied + 3 * i
        n, first, last = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2).to(tl.int32)
        if last >= 0:
            k = tl.where(tl.arange(0, 2) == 0, first.to(tl.int32), last)
            bits = distance_bits(u + n * D, transposed, D, K, k, k < K, PRODUCT)
            winner = tl.min(tl.where(bits == tl.min(bits, 0), k, K), 0)
        else:
            least, winner = tl.full((), 0x7FFFFFFFFFFFFFFF, tl.int64), K
            waiting = ((first >> lanes) & 1) > 0
            lane = tl.min(tl.where(waiting, lanes, BLOCK_K), 0)
            while lane < BLOCK_K:
                group = lane // GROUP
                k = tl.arange(0, TILES)[:, None] * BLOCK_K + group * GROUP + tl.arange(0, GROUP)[None, :]
                bits = distance_bits(u + n * D, transposed, D, K, k, k < K, PRODUCT)
                group_least = tl.min(tl.min(bits, 1), 0)
                group_winner = tl.min(tl.min(tl.where(bits == group_least, k, K), 1), 0)
                is_better = (group_least < least) | ((group_least == least) & (group_winner < winner))
                winner, least = tl.where(is_better, group_winner, winner), tl.minimum(group_least, least)
                waiting = waiting & (lanes // GROUP != group)
                lane = tl.min(tl.where(waiting, lanes, BLOCK_K), 0)
        tl.store(out + n, winner.to(tl.int64))


def nearest(u: Tensor, codes: PreparedCodebook, out: Tensor) -> None:
    """Write the nearest codes of float32 rows (R, D), by (distance, index), to out (R,) int64."""
    (R, D), (K, Dp) = u.shape, (len(codes.rows), codes.high.shape[1])
    if R == 0:
        return
    tied = torch.empty(R, 3, dtype=torch.int64, device=u.device)
    tied_count = torch.zeros(1, dtype=torch.int32, device=u.device)
    is_wide, rows = Dp > block_d(D), BLOCK_N if codes.split else PLAIN_BLOCK_N
    tiles = {"TILES": triton.next_power_of_2(triton.cdiv(K, BLOCK_K)), "BLOCK_K": BLOCK_K}
    # 128 registers a thread: two programs share a multiprocessor, one scores while the other compares.
    registers = {"maxnreg": 128} if codes.split and not is_wide else {}
    _nearest_kernel[(triton.cdiv(R, rows),)](
        u=u,
        high=codes.high,
        bias=codes.bias,
        limits=codes.limits,
        tile_numbers=codes.tile_numbers,
        out=out,
        errors=u.new_empty(R),
        tied=tied,
        tied_count=tied_count,
        R=R,
        D=D,
        K=K,
        Dp=Dp,
        SPLIT=codes.split,
        PRODUCT=codes.product,
        WIDE=is_wide,
        BLOCK_N=rows,
        BLOCK_D=block_d(D),
        num_warps=8,
        **tiles,
        **registers,
    )
    _resolve_ties_kernel[(min(R, TIE_PROGRAMS),)](
        u=u,
        transposed=codes.transposed,
        out=out,
        tied=tied,
        tied_count=tied_count,
        D=D,
        K=K,
        PRODUCT=codes.product,
        GROUP=max(1, min(BLOCK_K, SETTLED_CODES // tiles["TILES"])),
        num_warps=1,
        **tiles,
        **DEFINITION,
    )
