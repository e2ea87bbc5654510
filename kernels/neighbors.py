"""The nearest few codes of each row, by the definition alone."""

import triton
import triton.language as tl
from torch import Tensor

from .codes import PreparedCodebook
from .rows import DEFINITION, INFINITE, distance_bits


@triton.jit
def _neighbors_kernel(
    u,  # *f32 (R, D)
    transposed,  # *f32 (D, K)
    out,  # *i64 (R, delta)
    D,
    K,
    delta,
    PRODUCT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (R). One program owns one row: it computes all its distances, then takes the least again and again."""
    n = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK)
    bits = tl.where(k < K, distance_bits(u + n * D, transposed, D, K, k, k < K, PRODUCT), INFINITE + 1)
    for i in range(delta):
        least = tl.min(bits, 0)
        winner = tl.min(tl.where(bits == least, k, K), 0)
        tl.store(out + n * delta + i, winner.to(tl.int64))
        bits = tl.where(k == winner, INFINITE + 1, bits)


def neighbors(u: Tensor, codes: PreparedCodebook, out: Tensor) -> None:
    """Write the nearest codes of float32 rows (R, D), by (distance, index), to out (R, delta) int64."""
    K, D = codes.rows.shape
    block = triton.next_power_of_2(K)
    if len(u):
        _neighbors_kernel[(len(u),)](
            u=u,
            transposed=codes.transposed,
            out=out,
            D=D,
            K=K,
            delta=out.shape[1],
            PRODUCT=codes.product,
            BLOCK=block,
            num_warps=min(32, max(4, block // 1024)),
            **DEFINITION,
        )
