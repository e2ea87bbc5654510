"""Linear layers of a decoding step, each with what stands before and behind it: one launch.

Made for few rows: a step has one new place a stream, and its time is that of reading the weights and of launching.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .launch import launch


class Tile(NamedTuple):
    """What one program computes and how."""

    rows: int
    columns: int
    depth: int  # of the product, in one turn of the loop
    stages: int  # turns whose reads are under way at once
    warps: int


@triton.jit
def _statistics(
    rows,  # *f16, *bf16 or *f32 (BLOCK_M, 1): where each row begins
    epsilon,
    K: tl.constexpr,
    CENTERED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Mean (0 where not CENTERED) and 1 / sqrt(mean square around it + epsilon) of rows, float32 (BLOCK_M, 1) each.

    The second pass finds the rows in the cache. Sums stay apart, a column of the tile each, until the end.
    """
    mean = tl.zeros((BLOCK_M, 1), tl.float32)
    if CENTERED:
        total = tl.zeros((BLOCK_M, BLOCK_S), tl.float32)
        for k0 in tl.static_range(0, K, BLOCK_S):
            k = k0 + tl.arange(0, BLOCK_S)[None, :]
            total += tl.load(rows + k, mask=k < K, other=0.0).to(tl.float32)
        mean = tl.sum(total, 1, keep_dims=True) / K
    square = tl.zeros((BLOCK_M, BLOCK_S), tl.float32)
    for k0 in tl.static_range(0, K, BLOCK_S):
        k = k0 + tl.arange(0, BLOCK_S)[None, :]
        apart = tl.where(k < K, tl.load(rows + k, mask=k < K, other=0.0).to(tl.float32) - mean, 0.0)
        square += apart * apart
    return mean, 1 / tl.sqrt_rn(tl.sum(square, 1, keep_dims=True) / K + epsilon)


@triton.jit
def _linear_kernel(
    x,  # *f16, *bf16 or *f32 (R, K)
    weight,  # as x (N, K), contiguous
    second,  # as weight: y = silu(x weight^T) * (x second^T); None: no such gate
    bias,  # as x (N); None: none
    factor,  # as x (U, K): what normed rows are multiplied by; None: rows are not normed
    shift,  # as factor: what is added then; None: nothing
    residual,  # as x (R, N): what the result is added to; None: nothing
    gate,  # as x (U, N): what the result is multiplied by before; None: nothing
    picked,  # *i64 (R): which row of factor, shift and gate; None: row r has the r-th
    out,  # as x (R, N), contiguous
    rows,
    columns,
    x_stride,
    residual_stride,
    factor_stride,  # of shift too; 0: all rows share one
    gate_stride,
    epsilon,
    K: tl.constexpr,
    CENTERED: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_S: tl.constexpr,  # numbers of a row that are summed at a time
):
    """Grid (tiles of rows * tiles of columns). One program owns a tile of the result: it reads its rows for their mean
    and length first, where they are normed, and once more for the product. Programs of the same columns are neighbours,
    so that weights come from memory once. Rows and columns beyond the last are computed as the last and not stored.
    """
    tiles = tl.cdiv(rows, BLOCK_M)
    row = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(0) // tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    row, column = tl.minimum(row, rows - 1).to(tl.int64), tl.minimum(column, columns - 1).to(tl.int64)
    modulation = row if picked is None else tl.load(picked + row)
    own = x + row[:, None] * x_stride
    if factor is not None:
        mean, length = _statistics(own, epsilon, K, CENTERED, BLOCK_M, BLOCK_S)
        offset = -mean * length
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    other = total
    for k0 in range(0, K, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        mask = None if K % BLOCK_K == 0 else k[None, :] < K
        zero = None if K % BLOCK_K == 0 else 0.0
        h = tl.load(own + k[None, :], mask=mask, other=zero)
        if factor is not None:
            at = modulation[:, None] * factor_stride + k[None, :]
            normed = (h.to(tl.float32) * length + offset) * tl.load(factor + at, mask=mask, other=zero).to(tl.float32)
            if shift is not None:
                normed += tl.load(shift + at, mask=mask, other=zero).to(tl.float32)
            h = normed.to(x.dtype.element_ty)
        at = column[:, None] * K + k[None, :]
        w = tl.load(weight + at, mask=mask, other=zero)
        total = tl.dot(h, tl.trans(w), total, input_precision="ieee")
        if second is not None:
            w = tl.load(second + at, mask=mask, other=zero)
            other = tl.dot(h, tl.trans(w), other, input_precision="ieee")
    if bias is not None:
        total += tl.load(bias + column).to(tl.float32)[None, :]
    if GELU:
        total = 0.5 * total * (1 + tl.erf(total * 0.7071067811865476))
    if second is not None:
        total = total / (1 + tl.exp(-total)) * other
    if gate is not None:
        total *= tl.load(gate + modulation[:, None] * gate_stride + column[None, :]).to(tl.float32)
    if residual is not None:
        total += tl.load(residual + row[:, None] * residual_stride + column[None, :]).to(tl.float32)
    tl.store(out + row[:, None] * columns + column[None, :], total.to(out.dtype.element_ty), mask=inside)


def tile_of(rows: int, depth: int, is_normed: bool) -> Tile:
    """The tile for so many rows: of those tried for 2 to 16 rows of 768 and 1024 numbers, what takes least by a cycle
    model, an estimate.

    Every tile of columns norms its rows anew, so that these tiles are wide; where nothing is normed, there are as many
    as a GPU has multiprocessors.
    """
    block, deep = min(16, max(2, triton.next_power_of_2(rows))), min(512, max(16, triton.next_power_of_2(depth)))
    if not is_normed:
        return Tile(block, 8, deep, stages=3, warps=2)
    return Tile(block, 32, deep, stages=2, warps=4) if block < 16 else Tile(block, 32, deep, stages=1, warps=8)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    second: torch.Tensor | None = None,
    *,
    factor: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    is_centered: bool = True,
    epsilon: float = 0.0,
    gelu: bool = False,
    residual: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    picked: torch.Tensor | None = None,
) -> torch.Tensor:
    """x (R, K), weight (N, K), bias (N), second (N, K), residual (R, N) -> (R, N) as x; see the kernel.

    factor, shift (U, K), or factor (K) for all rows, and gate (U, N): row r has row picked[r], int64 (R), or the r-th.
    is_centered: rows that are normed go through a layer norm, else through an RMS norm. Raises ValueError for rows or
    weights that are not contiguous, and for modulation whose strides differ.
    """
    rows_of = {"x": x, "bias": bias, "factor": factor, "shift": shift, "residual": residual, "gate": gate}
    wrong = [name for name, tensor in rows_of.items() if tensor is not None and tensor.stride(-1) != 1]
    wrong += [name for name, w in (("weight", weight), ("second", second)) if w is not None and not w.is_contiguous()]
    if wrong:
        raise ValueError(f"linear: expected contiguous weights and rows, found others in {', '.join(wrong)}")
    if shift is not None and (factor is None or shift.stride() != factor.stride()):
        raise ValueError("linear: expected a factor of shift's strides")
    (rows, depth), columns = x.shape, len(weight)
    out = torch.empty(rows, columns, dtype=x.dtype, device=x.device)
    tile = tile_of(rows, depth, is_normed=factor is not None)
    launch(
        _linear_kernel,
        (triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns),),
        x=x,
        weight=weight,
        second=second,
        bias=bias,
        factor=factor,
        shift=shift,
        residual=residual,
        gate=gate,
        picked=picked,
        out=out,
        rows=rows,
        columns=columns,
        x_stride=x.stride(0),
        residual_stride=0 if residual is None else residual.stride(0),
        factor_stride=0 if factor is None or factor.ndim == 1 else factor.stride(0),
        gate_stride=0 if gate is None else gate.stride(0),
        epsilon=epsilon,
        K=depth,
        CENTERED=is_centered,
        GELU=gelu,
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        BLOCK_K=tile.depth,
        BLOCK_S=min(triton.next_power_of_2(depth), 1024 * tile.warps // tile.rows),
        num_stages=tile.stages,
        num_warps=tile.warps,
    )
    return out
