"""The code at a wanted rank among a few candidates of each row, where scores cannot tell them apart.

Float64 sums in any order, read along the rows, decide nearly all rows: they are within a bound of the definition's
distances. Where the bound cannot tell, as between codes that are the same, the definition orders the candidates.
"""

import triton
import triton.language as tl
from torch import Tensor

from .codes import PreparedCodebook
from .launch import launch
from .rows import DEFINITION, INFINITE, distance_bits

NONE = tl.constexpr(0x7FFFFFFF)  # no code
FAR = tl.constexpr(1e300)  # beyond the distance of every code
BLOCK_N = 32  # entries of a program
BLOCK_D = 16  # coordinates that are read at a time: four threads have a row


@triton.jit
def _distances(
    u,  # *f32 (n): where the row of each pair begins
    rows,  # *f32 (n): where its code begins
    is_code,
    D,
    PRODUCT: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Float64 (n): distances of pairs, FAR where there is no code, and what bounds the error of their sums."""
    total = tl.zeros((rows.shape[0], BLOCK_D // 4), tl.float64)  # a thread adds up the four coordinates that it reads
    magnitude = total
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)[None, :]
        x = tl.load(u[:, None] + d, mask=d < D, other=0.0).to(tl.float64)
        e = tl.load(rows[:, None] + d, mask=is_code[:, None] & (d < D), other=0.0).to(tl.float64)
        terms = tl.reshape(-x * e if PRODUCT else (x - e) * (x - e), (rows.shape[0], BLOCK_D // 4, 4))
        total += tl.sum(terms, 2)
        if PRODUCT:
            magnitude += tl.sum(tl.abs(terms), 2)
    total, magnitude = tl.sum(total, 1), tl.sum(magnitude if PRODUCT else total, 1)
    return tl.where(is_code, total, FAR), tl.where(is_code, magnitude, 0.0)


@triton.jit
def _at_rank(total, margin, codes, wanted, CANDIDATES: tl.constexpr):
    """The code (n) at the wanted rank by distances (m, n), where all others differ by more than `margin`; else -1."""
    candidate, winner = tl.arange(0, CANDIDATES)[:, None], tl.full(wanted.shape, -1, tl.int32)
    for i in tl.static_range(CANDIDATES):
        own = tl.sum(tl.where(candidate == i, total, 0.0), 0)[None, :]
        before, near = tl.sum((total < own).to(tl.int32), 0), tl.sum((tl.abs(total - own) <= margin).to(tl.int32), 0)
        code = tl.sum(tl.where(candidate == i, codes, 0), 0)
        winner = tl.where((before == wanted) & (near == 1), code, winner)
    return winner


@triton.jit
def _at_exact_rank(bits, codes, wanted, CANDIDATES: tl.constexpr):
    """The code (n) at the wanted rank by (bits, code), each (m, n)."""
    candidate, winner = tl.arange(0, CANDIDATES)[:, None], tl.full(wanted.shape, -1, tl.int32)
    for i in tl.static_range(CANDIDATES):
        own = tl.sum(tl.where(candidate == i, bits, 0), 0)[None, :]
        code = tl.sum(tl.where(candidate == i, codes, 0), 0)[None, :]
        before = (bits < own) | ((bits == own) & (codes < code))
        winner = tl.where(tl.sum(before.to(tl.int32), 0) == wanted, tl.max(code, 0), winner)
    return winner


@triton.jit
def _settle_kernel(
    u,  # *f32 (R, D)
    rows,  # *f32 (K, D)
    transposed,  # *f32 (D, K)
    out,  # *i64 (R)
    entries,  # *i32 (count, 2 + BASES): see `settle`
    count,
    D,
    K,
    PRODUCT: tl.constexpr,
    BASES: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid (count / BLOCK_N). One program owns BLOCK_N entries."""
    CANDIDATES: tl.constexpr = BASES * GROUP
    # Pairs of a row and a candidate lie in one dimension, rows side by side, so that a thread has all those of a row.
    PAIRS: tl.constexpr = CANDIDATES * BLOCK_N
    place = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    entry = entries + (2 + BASES) * place.to(tl.int64)
    n = tl.load(entry, mask=place < count, other=-1)
    wanted = tl.load(entry + 1, mask=n >= 0, other=0)
    i, pair_place = tl.arange(0, PAIRS) // BLOCK_N, tl.program_id(0) * BLOCK_N + tl.arange(0, PAIRS) % BLOCK_N
    pair_entry = entries + (2 + BASES) * pair_place.to(tl.int64)
    pair_n = tl.load(pair_entry, mask=pair_place < count, other=-1)
    base = tl.load(pair_entry + 2 + i // GROUP, mask=pair_n >= 0, other=NONE)
    codes = tl.where(base < NONE, base + i % GROUP, K)
    is_code = codes < K
    row = u + tl.maximum(pair_n, 0).to(tl.int64) * D
    total, magnitude = _distances(row, rows + codes.to(tl.int64) * D, is_code, D, PRODUCT, BLOCK_D)
    total, magnitude = tl.reshape(total, (CANDIDATES, BLOCK_N)), tl.reshape(magnitude, (CANDIDATES, BLOCK_N))
    codes_of_row = tl.reshape(codes, (CANDIDATES, BLOCK_N))
    # The definition's sum and this one are each within (D + 3) * 2**-53 of the magnitude.
    margin = 4.4501e-16 * (D + 4) * tl.max(magnitude, 0)[None, :]
    is_finite = tl.max(((tl.abs(total) <= FAR) == 0).to(tl.int32), 0) == 0
    winner = tl.where(is_finite, _at_rank(total, margin, codes_of_row, wanted, CANDIDATES), -1)
    is_open = (n >= 0) & (winner < 0)
    if tl.max(is_open.to(tl.int32), 0) > 0:
        bits = distance_bits(row, transposed, D, K, tl.where(is_code, codes, 0), is_code, PRODUCT)
        bits = tl.reshape(tl.where(is_code, bits, INFINITE + 1), (CANDIDATES, BLOCK_N))
        winner = tl.where(is_open, _at_exact_rank(bits, codes_of_row, wanted, CANDIDATES), winner)
    tl.store(out + n, winner.to(tl.int64), mask=n >= 0)


def settle(u: Tensor, codes: PreparedCodebook, entries: Tensor, group: int, out: Tensor) -> None:
    """Write codes of float32 rows (R, D) to out (R,) int64, one for each entry.

    entries: int32 (count, 2 + bases), each a row of u, or -1 for none, the rank that is wanted among its candidates by
        (distance, index), and what stands for them: a base b for the `group` codes from b on; those from K on are
        none, and neither are those of a base that is NONE.
    """
    (count, columns), (K, D) = entries.shape, codes.rows.shape
    if count:
        launch(
            _settle_kernel,
            (triton.cdiv(count, BLOCK_N),),
            u=u,
            rows=codes.rows,
            transposed=codes.transposed,
            out=out,
            entries=entries,
            count=count,
            D=D,
            K=K,
            PRODUCT=codes.product,
            BASES=columns - 2,
            GROUP=group,
            BLOCK_N=BLOCK_N,
            BLOCK_D=BLOCK_D,
            num_warps=4,
            **DEFINITION,
        )
