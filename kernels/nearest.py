"""Nearest code, streamed: a block of rows meets the codebook tile by tile, and no N x K matrix exists.

A lane meets one code of every tile and keeps its two best scores, each with the number of its tile in the last bits: a
score costs one logic operation, two maxima and one minimum. A row is settled where one code alone reaches within twice
the error of the best; the others are listed on the device and decided by the definition.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .codes import BLOCK_K, LOSES, Codes, block_d, length_of, row_block, score_error, split_error, split_scores
from .rows import DEFINITION, distance_bits

BLOCK_N = 128  # rows that share what is read of the codebook
PLAIN_BLOCK_N = 32  # of float32 rows, whose tiles take more shared memory
SETTLERS = 1024  # programs that share the list of ties: its length is known only on the device


@triton.jit
def _nearest_kernel(
    u, high, low, bias, limits, numbers, out, tied, tied_count, R, D, K, Dp, TILES: tl.constexpr,
    SPLIT: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program owns BLOCK_N rows and reads the whole codebook, which stays in the cache.

    TILES: a power of two, more than the number of the last tile. WIDE: a row is longer than one product takes.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < R
    squares, rest = tl.zeros((BLOCK_N,), tl.float32), tl.zeros((BLOCK_N,), tl.float32)
    for d0 in range(0, Dp, BLOCK_D):
        x = row_block(u, n, d0 + tl.arange(0, BLOCK_D), inside, D)
        left = x - x.to(tl.float16).to(tl.float32) if SPLIT else tl.zeros_like(x)
        squares, rest = squares + tl.sum(x * x, 1), rest + tl.sum(left * left, 1)
    length, packing = length_of(squares, D), TILES * 1.1920929e-07  # the number of a tile replaces the last bits
    if SPLIT:
        residual, longest, worst = length_of(rest, D), tl.load(limits), tl.load(limits + 1)
        rounded = residual * longest + (length + residual) * worst
        error = score_error(length, longest, rounded, (2 * D + 8) * 1.1920929e-07 + packing, D)
    else:
        error = split_error(length, limits, packing, D, SPLIT)

    d = tl.arange(0, BLOCK_D)
    if SPLIT and not WIDE:
        x_high = row_block(u, n, d, inside, D).to(tl.float16)
    best = tl.full((BLOCK_N, BLOCK_K), LOSES, tl.float32)
    second = best
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        if not SPLIT:
            scores = split_scores(u, high, low, bias, n, k, inside, D, Dp, SPLIT, BLOCK_N, BLOCK_K, BLOCK_D)
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
        # from memory, so that the sum goes through the multiply-add pipe: the one of logic and maxima is the bottleneck
        packed = (scores.to(tl.int32, bitcast=True) & -TILES) + tl.load(numbers + start // BLOCK_K)
        packed = packed.to(tl.float32, bitcast=True)
        second = tl.maximum(second, tl.minimum(packed, best))
        best = tl.maximum(best, packed)

    reach = tl.max(best, 1) - 2 * error
    is_near = (best < reach[:, None]) == 0  # negated, so that a NaN reaches
    hidden = tl.sum(((second < reach[:, None]) == 0).to(tl.int32), 1)
    count = tl.sum(is_near.to(tl.int32), 1) + hidden
    code = (best.to(tl.int32, bitcast=True) & (TILES - 1)) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    first, last = tl.min(tl.where(is_near, code, K), 1), tl.max(tl.where(is_near, code, -1), 1)
    tl.store(out + n, last.to(tl.int64), mask=inside & (count == 1))
    is_tied = inside & (count != 1)
    place = tied + 3 * tl.atomic_add(tied_count + tl.zeros_like(n), 1, mask=is_tied)
    tl.store(place, n, mask=is_tied)
    tl.store(place + 1, first, mask=is_tied)
    tl.store(place + 2, tl.where((count == 2) & (hidden == 0), last, -1), mask=is_tied)


@triton.jit
def _settle_kernel(u, transposed, out, tied, tied_count, D, K, BLOCK: tl.constexpr):
    """Decides the listed rows by the definition, one row at a time: between two codes where it is known which, else of
    all."""
    for i in range(tl.program_id(0), tl.load(tied_count), tl.num_programs(0)):
        n = tl.load(tied + 3 * i).to(tl.int64)
        first, last = tl.load(tied + 3 * i + 1), tl.load(tied + 3 * i + 2)
        winner = first
        if last >= 0:
            k = tl.where(tl.arange(0, 2) == 0, first, last)
            bits = distance_bits(u + n * D, transposed, D, K, k, k < K)
            winner = tl.min(tl.where(bits == tl.min(bits, 0), k, K), 0)
        else:
            least = tl.full((), 0x7FFFFFFFFFFFFFFF, tl.int64)
            for start in range(0, K, BLOCK):
                k = start + tl.arange(0, BLOCK)
                bits = distance_bits(u + n * D, transposed, D, K, k, k < K)
                tile_least = tl.min(bits, 0)
                tile_winner = tl.min(tl.where(bits == tile_least, k, K), 0)
                winner = tl.where(tile_least < least, tile_winner, winner)
                least = tl.minimum(tile_least, least)
        tl.store(out + n, winner.to(tl.int64))


def nearest(u: Tensor, codes: Codes, out: Tensor) -> None:
    """Write the nearest codes of float32 rows (R, D), by (distance, index), to out (R,) int64."""
    (R, D), (K, Dp) = u.shape, (len(codes.rows), codes.high.shape[1])
    if R == 0:
        return
    tied = torch.empty(R, 3, dtype=torch.int32, device=u.device)  # row, and the two codes or the first and -1
    tied_count = torch.zeros(1, dtype=torch.int32, device=u.device)
    wide, rows = Dp > block_d(D), BLOCK_N if codes.split else PLAIN_BLOCK_N
    # 128 registers a thread: two programs share a multiprocessor, one scores while the other compares
    registers = {"maxnreg": 128} if codes.split and not wide else {}
    _nearest_kernel[(triton.cdiv(R, rows),)](
        u, *codes[2:7], out, tied, tied_count, R, D, K, Dp, TILES=triton.next_power_of_2(triton.cdiv(K, BLOCK_K)),
        SPLIT=codes.split, WIDE=wide, BLOCK_N=rows, BLOCK_K=BLOCK_K, BLOCK_D=block_d(D), num_warps=8, **registers,
    )  # fmt: skip
    block = min(1024, triton.next_power_of_2(K))
    _settle_kernel[(min(R, SETTLERS),)](u, codes.transposed, out, tied, tied_count, D, K, BLOCK=block, **DEFINITION)
