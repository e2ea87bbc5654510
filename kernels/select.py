"""The code of a given rank, and the nearest few, of each row: bisection of its scores, no sorted list.

Scores of a few thousand rows at a time go to a buffer that fits the cache. A program bisects the scores of one row
until one code remains (csrc/select.h has the argument); where others are within twice the error, the definition orders
them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .codes import BLOCK_K, BLOCK_N, Codes, block_d, score_errors, score_tile
from .rows import DEFINITION, distance_bits

BUFFER_BYTES = 32 << 20
INFINITE = tl.constexpr(0x7FF0000000000000)  # the bits of an infinite float64


@triton.jit
def _scores_kernel(
    u, high, low, bias, out, R, D, K,
    SPLIT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = n < R
    scores = score_tile(u, high, low, bias, n, k, inside, D, K, SPLIT, BLOCK_N, BLOCK_K, BLOCK_D)
    tl.store(out + n[:, None].to(tl.int64) * K + k[None, :], scores, mask=inside[:, None] & (k < K)[None, :])


@triton.jit
def _bracket(scores, valid, rank):
    """Scores low <= high between which the one at `rank` lies, few or none in between."""
    high = tl.max(scores, 0)
    low = tl.min(tl.where(valid & (scores > float("-inf")), scores, high), 0)
    low = tl.where(tl.sum((scores >= low).to(tl.int32), 0) > rank, low, float("-inf"))
    middle = low + (high - low) * 0.5
    while (low < middle) & (middle < high):
        enough = tl.sum((scores >= middle).to(tl.int32), 0) > rank
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
        few = tl.sum(((scores >= low) & (scores < high)).to(tl.int32), 0) == 1
        middle = tl.where(few, high, low + (high - low) * 0.5)
    return low, high


@triton.jit
def _at_rank(bits, k, rank):
    """The code at `rank` by (distance, index) among those whose bits are not -1: bisects the bits, then the index."""
    valid = bits >= 0
    low = tl.min(tl.where(valid, bits, INFINITE), 0)
    high = tl.max(bits, 0)
    while low < high:
        middle = low + (high - low) // 2
        enough = tl.sum((valid & (bits <= middle)).to(tl.int32), 0) > rank
        low = tl.where(enough, low, middle + 1)
        high = tl.where(enough, middle, high)
    left = rank - tl.sum((valid & (bits < low)).to(tl.int32), 0)
    equal = (bits == low).to(tl.int32)
    return tl.max(tl.where((equal > 0) & (tl.cumsum(equal, 0) == left + 1), k, 0), 0)


@triton.jit
def _select_kernel(u, transposed, scores, errors, ranks, out, D, K, BLOCK: tl.constexpr):
    """One program owns one row, whose scores it holds in registers. Rows of rank 0 keep what `out` has."""
    n = tl.program_id(0).to(tl.int64)
    rank = tl.load(ranks + n)
    if rank > 0:
        k = tl.arange(0, BLOCK)
        valid = k < K
        row = tl.load(scores + n * K + k, mask=valid, other=float("-inf"))
        error = tl.load(errors + n)
        low, high = _bracket(row, valid, rank)
        # negated, so that all are candidates where the error is NaN or infinite
        above = valid & (row > high + 2 * error)
        inside = valid & ((row < low - 2 * error) == 0) & (above == 0)
        if tl.sum(inside.to(tl.int32), 0) == 1:
            winner = tl.max(tl.where(inside, k, 0), 0)
        else:
            bits = tl.where(inside, distance_bits(u + n * D, transposed, D, K, k, inside), -1)
            winner = _at_rank(bits, k, rank - tl.sum(above.to(tl.int32), 0))
        tl.store(out + n, winner.to(tl.int64))


def row_block(K: int) -> dict[str, int]:
    """Launch settings for programs that hold a value for every code."""
    block = triton.next_power_of_2(K)
    return {"BLOCK": block, "num_warps": min(32, max(4, block // 1024))}


def select(u: Tensor, codes: Codes, ranks: Tensor, out: Tensor) -> None:
    """Write the codes at ranks (R,) int32 of float32 rows (R, D) to out (R,) int64, where the rank is not 0."""
    D, K = u.shape[1], len(codes.rows)
    errors = score_errors(u, codes)
    rows = max(BLOCK_N, BUFFER_BYTES // (4 * K))
    buffer = torch.empty(min(rows, len(u)), K, dtype=torch.float32, device=u.device)
    for first in range(0, len(u), rows):
        part = slice(first, first + rows)
        R = len(u[part])
        _scores_kernel[(triton.cdiv(R, BLOCK_N), triton.cdiv(K, BLOCK_K))](
            u[part], codes.high, codes.low, codes.bias, buffer, R, D, K,
            SPLIT=codes.split, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, BLOCK_D=block_d(D), num_warps=8,
        )  # fmt: skip
        _select_kernel[(R,)](
            u[part], codes.transposed, buffer, errors[part], ranks[part], out[part], D, K, **row_block(K), **DEFINITION
        )


@triton.jit
def _neighbors_kernel(u, transposed, out, D, K, delta, BLOCK: tl.constexpr):
    """One program owns one row: all its distances by the definition, then the least again and again."""
    n = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK)
    bits = tl.where(k < K, distance_bits(u + n * D, transposed, D, K, k, k < K), INFINITE + 1)
    for i in range(delta):
        least = tl.min(bits, 0)
        winner = tl.min(tl.where(bits == least, k, K), 0)
        tl.store(out + n * delta + i, winner.to(tl.int64))
        bits = tl.where(k == winner, INFINITE + 1, bits)


def neighbors(u: Tensor, codes: Codes, delta: int) -> Tensor:
    """The delta nearest codes (R, delta) int64 of float32 rows (R, D), by (distance, index)."""
    out = torch.empty(len(u), delta, dtype=torch.int64, device=u.device)
    if len(u):
        D, K = u.shape[1], len(codes.rows)
        _neighbors_kernel[(len(u),)](u, codes.transposed, out, D, K, delta, **row_block(K), **DEFINITION)
    return out
