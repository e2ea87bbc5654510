"""What a training step takes from the codes found, in one pass over the rows, and its backward."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .rows import DEFINITION, row_norms, row_offsets

BLOCK_N = 64


@triton.jit
def _finish_kernel(
    u,  # *f32 (R, D)
    codes,  # *f32 (K, D)
    indices,  # *i64 (R): codes after perturbation
    z_q,  # *f16, *bf16 or *f32 (R, D)
    nearest,  # *i64 (R): codes before; this and all that follow are None where z_q alone is wanted
    z_q_clean,  # as z_q
    partial,  # *f64 (R / BLOCK_N)
    usage,  # *i64 (K)
    R,
    D,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid (R / BLOCK_N). One program owns BLOCK_N rows and writes their sum of (e - u)^2 as one of the partial sums,
    so that the total does not depend on the order in which programs run."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < R
    code = tl.load(indices + n, mask=inside, other=0)
    if nearest is not None:
        clean = tl.load(nearest + n, mask=inside, other=0)
        tl.atomic_add(usage + clean, 1, mask=inside)
    total = tl.zeros((BLOCK_N,), tl.float64)
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        mask = inside[:, None] & (d < D)[None, :]
        at = n[:, None] * D + d[None, :]
        x = tl.load(u + at, mask=mask, other=0.0)
        perturbed = tl.load(codes + code[:, None] * D + d[None, :], mask=mask, other=0.0) - x
        tl.store(z_q + at, x + perturbed, mask=mask)
        if nearest is not None:
            difference = tl.load(codes + clean[:, None] * D + d[None, :], mask=mask, other=0.0) - x
            tl.store(z_q_clean + at, x + difference, mask=mask)
            wide = difference.to(tl.float64)
            total += tl.sum(wide * wide, 1)
    if nearest is not None:
        tl.store(partial + tl.program_id(0), tl.sum(total, 0))


def finish(
    u: Tensor, codes: Tensor, nearest: Tensor, indices: Tensor, z_q: Tensor, z_q_clean: Tensor, usage: Tensor
) -> Tensor:
    """0-d float64 sum of (e - u)^2; writes the straight-through outputs (R, D) of rows u (R, D), adds to usage (K,)."""
    partial = torch.empty(triton.cdiv(len(u), BLOCK_N), dtype=torch.float64, device=u.device)
    _launch_finish(u, codes, indices, z_q, nearest=nearest, z_q_clean=z_q_clean, partial=partial, usage=usage)
    return partial.sum()


def straight_through(u: Tensor, codes: Tensor, indices: Tensor, z_q: Tensor) -> None:
    """Write the straight-through output (R, D) of rows u (R, D) alone."""
    _launch_finish(u, codes, indices, z_q, nearest=None, z_q_clean=None, partial=None, usage=None)


def _launch_finish(u: Tensor, codes: Tensor, indices: Tensor, z_q: Tensor, **clean: Tensor | None) -> None:
    R, D = u.shape
    if R:
        launch(
            _finish_kernel,
            (triton.cdiv(R, BLOCK_N),),
            u=u,
            codes=codes,
            indices=indices,
            z_q=z_q,
            **clean,
            R=R,
            D=D,
            BLOCK_N=BLOCK_N,
            BLOCK_D=min(64, triton.next_power_of_2(D)),
        )


@triton.jit
def _gradient(
    z,  # *f16, *bf16 or *f32 (n): where each row begins
    first,  # the same, of a gradient; or None
    second,  # the same
    codes,  # *f32 (K, D), or None
    clean,
    commit_weight,
    norms,
    inside,
    d,
    D,
    stride,
    first_stride,
    second_stride,
):
    """Coordinates d of the normalised rows u, and of the gradient that reaches them, each float32 (n, len(d)).

    commit_weight: factor of (u - e) in that gradient, or None.
    """
    mask, place = inside[:, None] & (d < D)[None, :], d.to(tl.int64)[None, :]
    u = (tl.load(z[:, None] + place * stride, mask=mask, other=0.0).to(tl.float64) / norms[:, None]).to(tl.float32)
    grad = tl.zeros(u.shape, tl.float32)
    if first is not None:
        grad += tl.load(first[:, None] + place * first_stride, mask=mask, other=0.0).to(tl.float32)
    if second is not None:
        grad += tl.load(second[:, None] + place * second_stride, mask=mask, other=0.0).to(tl.float32)
    if commit_weight is not None:
        grad += commit_weight * (u - tl.load(codes + clean[:, None] * D + d[None, :], mask=mask, other=0.0))
    return u, grad


@triton.jit
def _backward_kernel(
    z,  # *f16, *bf16 or *f32 (B, L, D)
    first,  # as z: gradient of a straight-through output; None: there is none
    second,  # as z: gradient of the other one; None
    codes,  # *f32 (K, D), normalised rows of the codebook; None where neither loss has a gradient
    nearest,  # *i64 (B, L): clean indices; None likewise
    vq,  # *f32 (): gradient of vq_loss; None
    commit,  # *f32 (): gradient of commit_loss; None
    dz,  # as z (B, L, D), contiguous
    de,  # *f64 (K, D): gradient of the normalised codes, added to; None where vq is
    count,
    L,
    D,
    scale,
    z_b,
    z_l,
    z_d,
    first_b,
    first_l,
    first_d,
    second_b,
    second_l,
    second_d,
    NORMALIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid (count / BLOCK_N). dz = (g - u (u.g)) / |z| for the gradient g that reaches u; adds vq * scale * (e - u) to
    the codes' gradient."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < count
    rows = z + row_offsets(n, L, z_b, z_l)
    first_rows = first + row_offsets(n, L, first_b, first_l) if first is not None else None
    second_rows = second + row_offsets(n, L, second_b, second_l) if second is not None else None
    clean = tl.load(nearest + n, mask=inside, other=0) if nearest is not None else None
    weight = tl.load(commit) * scale if commit is not None else None
    pull = tl.load(vq) * scale if vq is not None else None
    norms = tl.full((BLOCK_N,), 1.0, tl.float64)
    along = tl.zeros((BLOCK_N,), tl.float64)
    if NORMALIZE:
        norms = row_norms(rows, z_d, D, inside)
        for d0 in range(0, D, BLOCK_D):
            d = d0 + tl.arange(0, BLOCK_D)
            u, grad = _gradient(
                rows, first_rows, second_rows, codes, clean, weight, norms, inside, d, D, z_d, first_d, second_d
            )
            along += tl.sum(u.to(tl.float64) * grad.to(tl.float64), 1)
        along = tl.where(norms > 1e-12, along, 0.0)  # a clamped length has no gradient
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        mask = inside[:, None] & (d < D)[None, :]
        u, grad = _gradient(
            rows, first_rows, second_rows, codes, clean, weight, norms, inside, d, D, z_d, first_d, second_d
        )
        out = (grad.to(tl.float64) - u.to(tl.float64) * along[:, None]) / norms[:, None]
        tl.store(dz + n[:, None] * D + d[None, :], out.to(tl.float32), mask=mask)
        if vq is not None:
            at = clean[:, None] * D + d[None, :]
            difference = tl.load(codes + at, mask=mask, other=0.0) - u
            tl.atomic_add(de + at, (pull * difference).to(tl.float64), mask=mask)


def backward_of_latents(z: Tensor, grad: Tensor, normalize: bool) -> Tensor:
    """Gradient of z (B, L, D) from that of one straight-through output (B, L, D), any strides."""
    dz = z.new_empty(z.shape)
    _launch_backward(z, dz, grad, None, normalize, codes=None, nearest=None, vq=None, commit=None, de=None)
    return dz


def backward(
    z: Tensor,
    codes: Tensor,
    nearest: Tensor,
    straight_through: list[Tensor],
    vq: Tensor | None,
    commit: Tensor | None,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of z (B, L, D), and float64 of the normalised codes (K, D), from those of the outputs.

    straight_through: gradients of up to two outputs (B, L, D), any strides; vq, commit: 0-d float32 or None.
    The codes' gradient is summed by atomics in float64: its order may change the last bits of float64 only.
    """
    dz, de = z.new_empty(z.shape), torch.zeros_like(codes, dtype=torch.float64)
    first, second = [*straight_through, None, None][:2]
    _launch_backward(z, dz, first, second, normalize, codes=codes, nearest=nearest, vq=vq, commit=commit, de=de)
    return dz, de


def _launch_backward(z: Tensor, dz: Tensor, first: Tensor | None, second: Tensor | None, normalize: bool, **losses):
    B, L, D = z.shape
    (z_b, z_l, z_d), (first_b, first_l, first_d), (second_b, second_l, second_d) = map(_strides, (z, first, second))
    if z.numel():
        launch(
            _backward_kernel,
            (triton.cdiv(B * L, BLOCK_N),),
            z=z,
            first=first,
            second=second,
            dz=dz,
            **losses,
            count=B * L,
            L=L,
            D=D,
            scale=2 / z.numel(),
            z_b=z_b,
            z_l=z_l,
            z_d=z_d,
            first_b=first_b,
            first_l=first_l,
            first_d=first_d,
            second_b=second_b,
            second_l=second_l,
            second_d=second_d,
            NORMALIZE=normalize,
            BLOCK_N=BLOCK_N,
            BLOCK_D=min(64, triton.next_power_of_2(D)),
            **DEFINITION,
        )


def _strides(tensor: Tensor | None) -> tuple[int, int, int] | tuple[None, None, None]:
    return (None, None, None) if tensor is None else tensor.stride()
