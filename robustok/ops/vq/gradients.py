"""Gradients of the operations, in blocks of tokens so that the float64 steps in between stay small.

u = z / |z| and e = c / |c| are the rows compared (u = z, e = c without normalisation). Through the straight-through
outputs u receives their gradients unchanged; commit adds 2 (u - e) / (N D) to u, vq adds 2 (e - u) / (N D) to e.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .reference import compared, norms

Block = tuple[slice, slice]  # of images, and of their tokens: consecutive where all tokens are numbered through
_BLOCK_ELEMENTS = 1 << 17  # of one block of rows: a float64 copy of it is 1 MB, which the allocator keeps at hand


def blocks(shape: torch.Size, rows: int) -> Iterator[Block]:
    """Slices of images and tokens that cover (B, L, ...) in blocks of at most about `rows` tokens."""
    B, L = shape[:2]
    images, tokens = max(1, rows // max(1, L)), max(1, min(L, rows))
    for b in range(0, B, images):
        for t in range(0, L, tokens):
            yield slice(b, b + images), slice(t, t + tokens)


def through_compared(rows: Tensor, grad: Tensor, normalize: bool) -> Tensor:
    """Gradient of rows (..., D) from that of `compared(rows)`: (g - u (u.g)) / |rows|, in the dtype of rows."""
    if not normalize:
        return grad.to(rows.dtype)
    wide, grad = rows.double(), grad.double()
    length = norms(wide)
    unit = wide / length
    inside = (unit * grad).sum(-1, keepdim=True)
    is_clamped = length <= norms(torch.zeros_like(wide[..., :1]))
    return ((grad - torch.where(is_clamped, 0, unit * inside)) / length).to(rows.dtype)


def perturb_backward(z: Tensor, grad: Tensor, normalize: bool) -> Tensor:
    """Gradient of z (B, L, D) from that of a straight-through output."""
    out = z.new_empty(z.shape)
    for block in blocks(z.shape, max(1, _BLOCK_ELEMENTS // z.shape[2])):
        out[block] = through_compared(z[block], grad[block], normalize)
    return out


def quantize_backward(
    z: Tensor,
    codebook: Tensor,
    nearest: Tensor,
    straight: list[Tensor],
    vq: Tensor | None,
    commit: Tensor | None,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of z (B, L, D) and codebook (K, D) from those of the straight-through outputs and of the losses."""
    codes = compared(codebook, normalize)
    scale = 2 / max(1, z.numel())
    dz, de = z.new_empty(z.shape), torch.zeros_like(codes, dtype=torch.float64)
    for block in blocks(z.shape, max(1, _BLOCK_ELEMENTS // z.shape[2])):
        du = sum((grad[block].float() for grad in straight), torch.zeros((), device=z.device))
        difference = compared(z[block], normalize) - codes[nearest[block]]
        if commit is not None:
            du = du + commit * scale * difference
        if vq is not None:
            de.index_add_(0, nearest[block].flatten(), (-vq * scale * difference).double().flatten(0, 1))
        dz[block] = through_compared(z[block], du.expand_as(z[block]), normalize)
    return dz, through_compared(codebook, de, normalize)
