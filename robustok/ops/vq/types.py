"""What goes into the operations on a codebook and comes out of them.

Sizes: B images, L tokens of an image, D code width, K codes.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

# How a row is compared with codes: by its squared distance, by that of unit vectors, or by the inner product.
Similarity = Literal["l2", "cosine", "dot"]
SIMILARITIES: tuple[Similarity, ...] = ("l2", "cosine", "dot")


class CodebookShape(NamedTuple):
    """Size of a codebook (K, D) and how rows are compared with it: a backend may not take every one."""

    K: int
    D: int
    similarity: Similarity

    @classmethod
    def of(cls, codebook: Tensor, similarity: Similarity) -> "CodebookShape":
        K, D = codebook.shape
        return cls(K, D, similarity)


class Draw(NamedTuple):
    """Which tokens are perturbed and how far: METHOD.md section 3."""

    alpha: Tensor  # 0-d float64 in [0, 1]: probability that a token of a perturbed image is perturbed
    delta: Tensor  # 0-d int64 in [1, K]: number of near codes that the replacement is drawn from
    seed: Tensor  # 0-d int64 in [0, 2**63)
    sample_ids: Tensor  # (B,) int64: the number by which each image is known, whatever its place in the batch
    num_images: int  # how many images are perturbed: the first of the batch


class Perturbed(NamedTuple):
    """Result of `vq_perturb`."""

    z_q: Tensor  # (B, L, D) dtype of z, straight-through
    indices: Tensor  # (B, L) int64, after perturbation
    nearest: Tensor  # (B, L) int64, before

    @classmethod
    def empty(cls, z: Tensor) -> "Perturbed":
        """Contiguous tensors to write the result for latents z (B, L, D) into."""
        return cls(z.new_empty(z.shape), *(z.new_empty(z.shape[:2], dtype=torch.int64) for _ in range(2)))


class Quantized(NamedTuple):
    """Result of `vq_quantize`: that of `vq_perturb`, the clean latents, the two losses and the usage of the codes."""

    z_q: Tensor  # (B, L, D) dtype of z, straight-through
    indices: Tensor  # (B, L) int64, after perturbation
    nearest: Tensor  # (B, L) int64, before
    z_q_clean: Tensor  # (B, L, D) dtype of z, straight-through, without perturbation
    vq_loss: Tensor  # 0-d float32, unweighted mean
    commit_loss: Tensor  # 0-d float32, unweighted mean
    usage: Tensor  # (K,) int64, counts of nearest

    @classmethod
    def empty(cls, z: Tensor, K: int) -> "Quantized":
        """Contiguous tensors to write the result for latents z (B, L, D) and K codes into; usage is 0."""
        return cls(
            *Perturbed.empty(z),
            z_q_clean=z.new_empty(z.shape),
            vq_loss=z.new_empty((), dtype=torch.float32),
            commit_loss=z.new_empty((), dtype=torch.float32),
            usage=z.new_zeros(K, dtype=torch.int64),
        )


class QuantizedGradients(NamedTuple):
    """Gradients of the outputs of `vq_quantize` that something was computed from."""

    straight_through: list[Tensor]  # of z_q, of z_q_clean, or of both: (B, L, D), any strides
    vq_loss: Tensor | None  # 0-d float32
    commit_loss: Tensor | None  # 0-d float32
