"""What a training step takes from the codes found, in one pass over the rows, and its backward."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rows import DEFINITION, row_norms, row_offsets

BLOCK_N = 64


@triton.jit
def _finish_kernel(
    u, codes, nearest, indices, z_q, z_q_clean, partial, usage, R, D,
    CLEAN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program owns BLOCK_N rows; each writes one partial sum, so that the total does not depend on their order.

    Not CLEAN: z_q alone is written.
    """
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < R
    code = tl.load(indices + n, mask=inside, other=0)
    clean = tl.load(nearest + n, mask=inside, other=0) if CLEAN else code
    if CLEAN:
        tl.atomic_add(usage + clean, 1, mask=inside)
    total = tl.zeros((BLOCK_N,), tl.float64)
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        mask = inside[:, None] & (d < D)[None, :]
        at = n[:, None] * D + d[None, :]
        x = tl.load(u + at, mask=mask, other=0.0)
        perturbed = tl.load(codes + code[:, None] * D + d[None, :], mask=mask, other=0.0) - x
        tl.store(z_q + at, x + perturbed, mask=mask)
        if CLEAN:
            difference = tl.load(codes + clean[:, None] * D + d[None, :], mask=mask, other=0.0) - x
            tl.store(z_q_clean + at, x + difference, mask=mask)
            wide = difference.to(tl.float64)
            total += tl.sum(wide * wide, 1)
    if CLEAN:
        tl.store(partial + tl.program_id(0), tl.sum(total, 0))


def finish(
    u: Tensor, codes: Tensor, nearest: Tensor, indices: Tensor, z_q: Tensor, z_q_clean: Tensor, usage: Tensor
) -> Tensor:
    """0-d float64 sum of (e - u)^2; writes the straight-through outputs (R, D) of rows u (R, D), adds to usage (K,)."""
    partial = torch.empty(triton.cdiv(len(u), BLOCK_N), dtype=torch.float64, device=u.device)
    _launch_finish(u, codes, nearest, indices, z_q, z_q_clean, partial, usage, is_clean=True)
    return partial.sum()


def straight_through(u: Tensor, codes: Tensor, indices: Tensor, z_q: Tensor) -> None:
    """Write the straight-through output (R, D) of rows u (R, D) alone."""
    _launch_finish(u, codes, indices, indices, z_q, z_q, u, indices, is_clean=False)


def _launch_finish(u, codes, nearest, indices, z_q, z_q_clean, partial, usage, is_clean: bool) -> None:
    R, D = u.shape
    if R:
        _finish_kernel[(triton.cdiv(R, BLOCK_N),)](
            u, codes, nearest, indices, z_q, z_q_clean, partial, usage, R, D,
            CLEAN=is_clean, BLOCK_N=BLOCK_N, BLOCK_D=min(64, triton.next_power_of_2(D)),
        )  # fmt: skip


@triton.jit
def _gradient(z, first, second, codes, clean, commit, norms, inside, d, D, stride, stride_1, stride_2,
              STRAIGHT: tl.constexpr, COMMIT: tl.constexpr):  # fmt: skip
    """Rows u and the gradient that reaches them (BLOCK_N, BLOCK_D); z, first, second point to where the rows begin."""
    mask = inside[:, None] & (d < D)[None, :]
    u = (tl.load(z[:, None] + d[None, :] * stride, mask=mask, other=0.0).to(tl.float64) / norms[:, None]).to(tl.float32)
    grad = tl.zeros(u.shape, tl.float32)
    if STRAIGHT > 0:
        grad += tl.load(first[:, None] + d[None, :] * stride_1, mask=mask, other=0.0).to(tl.float32)
    if STRAIGHT > 1:
        grad += tl.load(second[:, None] + d[None, :] * stride_2, mask=mask, other=0.0).to(tl.float32)
    if COMMIT:
        grad += commit * (u - tl.load(codes + clean[:, None] * D + d[None, :], mask=mask, other=0.0))
    return u, grad


@triton.jit
def _backward_kernel(
    z, first, second, codes, nearest, vq, commit, dz, de, count, L, D, scale,
    z_b, z_l, z_d, first_b, first_l, first_d, second_b, second_l, second_d,
    NORMALIZE: tl.constexpr, STRAIGHT: tl.constexpr, COMMIT: tl.constexpr, VQ: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """dz = (g - u (u.g)) / |z| for the gradient g that reaches u; adds vq * scale * (e - u) to the codes' gradient."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < count
    rows = z + row_offsets(n, L, z_b, z_l)
    rows_1 = first + row_offsets(n, L, first_b, first_l)
    rows_2 = second + row_offsets(n, L, second_b, second_l)
    clean = tl.load(nearest + n, mask=inside, other=0)
    weight = tl.load(commit) * scale
    pull = tl.load(vq) * scale
    norms = tl.full((BLOCK_N,), 1.0, tl.float64)
    along = tl.zeros((BLOCK_N,), tl.float64)
    if NORMALIZE:
        norms = row_norms(rows, z_d, D, inside)
        for d0 in range(0, D, BLOCK_D):
            d = d0 + tl.arange(0, BLOCK_D)
            u, grad = _gradient(rows, rows_1, rows_2, codes, clean, weight, norms, inside, d, D, z_d, first_d, second_d,
                                STRAIGHT, COMMIT)  # fmt: skip
            along += tl.sum(u.to(tl.float64) * grad.to(tl.float64), 1)
        along = tl.where(norms > 1e-12, along, 0.0)  # a clamped length has no gradient
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        mask = inside[:, None] & (d < D)[None, :]
        u, grad = _gradient(rows, rows_1, rows_2, codes, clean, weight, norms, inside, d, D, z_d, first_d, second_d,
                            STRAIGHT, COMMIT)  # fmt: skip
        out = (grad.to(tl.float64) - u.to(tl.float64) * along[:, None]) / norms[:, None]
        tl.store(dz + n[:, None] * D + d[None, :], out.to(tl.float32), mask=mask)
        if VQ:
            at = clean[:, None] * D + d[None, :]
            difference = tl.load(codes + at, mask=mask, other=0.0) - u
            tl.atomic_add(de + at, (pull * difference).to(tl.float64), mask=mask)


def backward(
    z: Tensor, straight: list[Tensor], codes: Tensor, nearest: Tensor, vq: Tensor | None, commit: Tensor | None,
    normalize: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of z (B, L, D), and float64 of the codes (K, D) as compared, from those of the outputs.

    straight: gradients of up to two straight-through outputs (B, L, D), any strides; vq, commit: 0-d float32 or None.
    The codes' gradient is summed by atomics in float64: its order may change the last bits of float64 only.
    """
    B, L, D = z.shape
    dz = z.new_empty(z.shape)
    de = torch.zeros_like(codes, dtype=torch.float64)
    first, second = [*straight, z, z][:2]
    nothing = torch.zeros((), device=z.device)
    if z.numel():
        _backward_kernel[(triton.cdiv(B * L, BLOCK_N),)](
            z, first, second, codes, nearest, nothing if vq is None else vq, nothing if commit is None else commit,
            dz, de, B * L, L, D, 2 / z.numel(), *z.stride(), *first.stride(), *second.stride(),
            NORMALIZE=normalize, STRAIGHT=len(straight), COMMIT=commit is not None, VQ=vq is not None,
            BLOCK_N=BLOCK_N, BLOCK_D=min(64, triton.next_power_of_2(D)), **DEFINITION,
        )  # fmt: skip
    return dz, de
