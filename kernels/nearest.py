"""Nearest code, streamed: a block of rows meets the codebook tile by tile, and no N x K matrix exists.

Each lane keeps its two best scores and the tile of the best. A row is settled by its scores where only one code reaches
within twice their error of the best; the others are listed on the device and decided by the definition.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .codes import BLOCK_K, BLOCK_N, Codes, block_d, score_errors, score_tile
from .rows import DEFINITION, distance_bits

SETTLERS = 1024  # programs that share the list of ties: its length is known only on the device


@triton.jit
def _nearest_kernel(
    u, high, low, bias, errors, out, tied, tied_count, R, D, K,
    SPLIT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program owns BLOCK_N rows and reads the whole codebook, which stays in the cache."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < R
    best = tl.full((BLOCK_N, BLOCK_K), float("-inf"), tl.float32)
    second = best
    tile = tl.zeros((BLOCK_N, BLOCK_K), tl.int32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        scores = score_tile(u, high, low, bias, n, k, inside, D, K, SPLIT, BLOCK_N, BLOCK_K, BLOCK_D)
        second = tl.maximum(second, tl.minimum(scores, best))
        tile = tl.where(scores > best, start, tile)
        best = tl.maximum(best, scores)
    row_best = tl.max(best, 1)
    reach = row_best - 2 * tl.load(errors + n, mask=inside, other=0.0)
    # negated, so that a NaN reaches
    near = (best < reach[:, None]).to(tl.int32) + (second < reach[:, None]).to(tl.int32)
    candidates = 2 * BLOCK_K - tl.sum(near, 1)
    code = tl.where(best == row_best[:, None], tile + tl.arange(0, BLOCK_K)[None, :], K)
    tl.store(out + n, tl.minimum(tl.min(code, 1), K - 1).to(tl.int64), mask=inside)
    is_tied = inside & (candidates != 1)
    place = tl.atomic_add(tied_count + tl.zeros_like(n), 1, mask=is_tied)
    tl.store(tied + place, n, mask=is_tied)


@triton.jit
def _settle_kernel(u, transposed, out, tied, tied_count, D, K, BLOCK: tl.constexpr):
    """Decides the listed rows by the definition, one row at a time."""
    for i in range(tl.program_id(0), tl.load(tied_count), tl.num_programs(0)):
        n = tl.load(tied + i).to(tl.int64)
        least = tl.full((), 0x7FFFFFFFFFFFFFFF, tl.int64)
        winner = tl.zeros((), tl.int32)
        for start in range(0, K, BLOCK):
            k = start + tl.arange(0, BLOCK)
            bits = distance_bits(u + n * D, transposed, D, K, k, k < K)
            tile_least = tl.min(bits, 0)
            tile_winner = tl.min(tl.where(bits == tile_least, k, K), 0)
            winner = tl.where(tile_least < least, tile_winner, winner)
            least = tl.minimum(tile_least, least)
        tl.store(out + n, winner.to(tl.int64))


def nearest(u: Tensor, codes: Codes) -> Tensor:
    """Nearest codes (R,) int64 of float32 rows (R, D), by (distance, index)."""
    R, D = u.shape
    K = len(codes.rows)
    out = torch.empty(R, dtype=torch.int64, device=u.device)
    if R == 0:
        return out
    tied = torch.empty(R, dtype=torch.int32, device=u.device)
    tied_count = torch.zeros(1, dtype=torch.int32, device=u.device)
    _nearest_kernel[(triton.cdiv(R, BLOCK_N),)](
        u, codes.high, codes.low, codes.bias, score_errors(u, codes), out, tied, tied_count, R, D, K,
        SPLIT=codes.split, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, BLOCK_D=block_d(D), num_warps=8,
    )  # fmt: skip
    block = min(1024, triton.next_power_of_2(K))
    _settle_kernel[(min(R, SETTLERS),)](u, codes.transposed, out, tied, tied_count, D, K, BLOCK=block, **DEFINITION)
    return out
