"""Gradients of the operations, in blocks of tokens so that the float64 steps in between stay small.

u = z / |z| and e = c / |c| are the rows compared, or u = z and e = c where the similarity is not "cosine". The
straight-through outputs hand their gradients to u unchanged; commit_loss adds 2 (u - e) / (N D) to u, vq_loss adds
2 (e - u) / (N D) to e.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .reference import compared_rows, norms
from .types import QuantizedGradients, Similarity

Block = tuple[slice, slice]  # images, and tokens of them; together one run of consecutive tokens of the batch
_BLOCK_ELEMENTS = 1 << 17  # of one block of rows: a float64 copy takes 1 MB, which the allocator keeps for reuse


def blocks(shape: torch.Size, rows: int) -> Iterator[Block]:
    """Slices of images and tokens that cover (B, L, ...) in blocks of at most about `rows` tokens."""
    B, L = shape[:2]
    images, tokens = max(1, rows // max(1, L)), max(1, min(L, rows))
    for b in range(0, B, images):
        for t in range(0, L, tokens):
            yield slice(b, b + images), slice(t, t + tokens)


def through_normalization(rows: Tensor, grad: Tensor, similarity: Similarity) -> Tensor:
    """Gradient of rows (..., D) from that of their compared rows: (g - u (u.g)) / |rows|, in the dtype of rows."""
    if similarity != "cosine":
        return grad.to(rows.dtype)
    wide, grad = rows.double(), grad.double()
    length = norms(wide)
    unit = wide / length
    inside = (unit * grad).sum(-1, keepdim=True)
    is_clamped = length <= norms(torch.zeros_like(wide[..., :1]))
    return ((grad - torch.where(is_clamped, 0, unit * inside)) / length).to(rows.dtype)


def perturb_backward(z: Tensor, grad: Tensor, similarity: Similarity) -> Tensor:
    """Gradient of z (B, L, D) from that of a straight-through output."""
    out = z.new_empty(z.shape)
    for block in blocks(z.shape, max(1, _BLOCK_ELEMENTS // z.shape[2])):
        out[block] = through_normalization(z[block], grad[block], similarity)
    return out


def quantize_backward(
    z: Tensor, codebook: Tensor, nearest: Tensor, grads: QuantizedGradients, similarity: Similarity
) -> tuple[Tensor, Tensor]:
    """Gradients of z (B, L, D) and codebook (K, D) from those of the straight-through outputs and of the losses."""
    codes = compared_rows(codebook, similarity)
    scale = 2 / max(1, z.numel())
    dz, de = z.new_empty(z.shape), torch.zeros_like(codes, dtype=torch.float64)
    for block in blocks(z.shape, max(1, _BLOCK_ELEMENTS // z.shape[2])):
        du = sum((grad[block].float() for grad in grads.straight_through), torch.zeros((), device=z.device))
        difference = compared_rows(z[block], similarity) - codes[nearest[block]]
        if grads.commit_loss is not None:
            du = du + grads.commit_loss * scale * difference
        if grads.vq_loss is not None:
            de.index_add_(0, nearest[block].flatten(), (-grads.vq_loss * scale * difference).double().flatten(0, 1))
        dz[block] = through_normalization(z[block], du.expand_as(z[block]), similarity)
    return dz, through_normalization(codebook, de, similarity)
