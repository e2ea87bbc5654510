"""Vector quantisers: codebooks, and the ops that compare latents with them (METHOD.md sections 2 and 3)."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...ops import Perturbed, Quantized, Similarity, vq_nearest, vq_perturb, vq_quantize
from ...ops.vq import normalize_rows
from ..interfaces import Perturbable


class Perturbation(NamedTuple):
    """Latent perturbation of one step: which latents are replaced, and by which of their neighbours (eq. 3 and 4).

    alpha: share of an image's tokens, in [0, 1]. beta: share of the batch's images, in [0, 1]. delta: neighbours drawn
    from, in [1, K]. seed: of the step. num_images: how many of this batch's first images; None: floor(beta * B).
    sample_ids: int64 (B,), who each image is; None: 0 .. B - 1. neighbors: of the latent or of its nearest code.
    """

    alpha: float | Tensor
    beta: float
    delta: int | Tensor
    seed: int | Tensor
    num_images: int | None = None
    sample_ids: Tensor | None = None
    neighbors: str = "latent"


NO_PERTURBATION = Perturbation(alpha=0.0, beta=0.0, delta=1, seed=0, num_images=0)


class VectorQuantizer(nn.Module):
    """K codes of width D, and their `similarity`: by squared distance, "cosine": of unit vectors, "dot": by product.

    Comparisons are float32 whatever the autocast mode: in bfloat16 several per cent of the indices would change.
    """

    perturbable: Perturbable = "codes"

    def __init__(self, codebook_size: int, code_width: int, similarity: Similarity = "cosine"):
        super().__init__()
        self.similarity = similarity
        self.codebook = nn.Parameter(torch.randn(codebook_size, code_width))

    def forward(self, z: Tensor, perturbation: Perturbation = NO_PERTURBATION) -> Quantized:
        """Quantise and perturb latents z (B, L, D) in one pass; the result of `vq_quantize`."""
        return vq_quantize(z.float(), self.codebook, similarity=self.similarity, **perturbation._asdict())

    def perturb(self, z: Tensor, perturbation: Perturbation) -> Perturbed:
        """Perturb latents z (B, L, D) without training losses; the result of `vq_perturb`."""
        return vq_perturb(z.float(), self.codebook, similarity=self.similarity, **perturbation._asdict())

    def nearest(self, z: Tensor) -> Tensor:
        """Latents (..., D) -> index of the nearest code, int64 (...)."""
        return vq_nearest(z.float(), self.codebook, similarity=self.similarity)

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes of `indices` (...) in [0, K) -> (..., D), as the decoder receives them.

        Raises: ValueError when an index lies outside [0, K).
        """
        size = len(self.codebook)
        if indices.numel() and (indices.min() < 0 or indices.max() >= size):
            found = f"{indices.min().item()} .. {indices.max().item()}"
            raise ValueError(f"indices must lie in [0, {size}) (codebook size {size}), found {found}")
        return self.unit(F.embedding(indices, self.codebook))

    def unit(self, vectors: Tensor) -> Tensor:
        """Vectors (..., D) on the scale of the codes: l2-normalised for "cosine", else unchanged."""
        return normalize_rows(vectors, self.similarity == "cosine")

    def usage(self, indices: Tensor) -> Tensor:
        """How often each code is in `indices`: (K,) int64."""
        return torch.bincount(indices.flatten(), minlength=len(self.codebook))

    @torch.no_grad()
    def set_codebook(self, codes: Tensor) -> None:
        """Replace the codebook by `codes` (K, D), for instance centres of k-means."""
        if codes.shape != self.codebook.shape:
            raise ValueError(f"codes must have shape {tuple(self.codebook.shape)}, found {tuple(codes.shape)}")
        self.codebook.copy_(codes)


class ProductQuantizer(nn.Module):
    """Q quantisers side by side (XQ-GAN, arXiv 2412.01762): each takes its share of a latent's Q * D coordinates.

    Its methods are those of `VectorQuantizer`; indices are (B, T, Q), `usage` is (Q, K), losses are means over the Q.
    """

    def __init__(self, parts: Iterable[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    @property
    def codebook(self) -> Tensor:
        """(Q, K, D)"""
        return torch.stack([part.codebook for part in self.parts])

    @property
    def similarity(self) -> Similarity:
        return self.parts[0].similarity

    @property
    def perturbable(self) -> Perturbable:
        return "none" if any(part.perturbable == "none" for part in self.parts) else "itself"

    def forward(self, z: Tensor, perturbation: Perturbation = NO_PERTURBATION) -> Quantized:
        results = [part(x, draw) for part, x, draw in self._split(z, perturbation)]
        z_q, indices, nearest, clean, vq_loss, commit_loss, usage = zip(*results, strict=True)
        losses = torch.stack(vq_loss).mean(), torch.stack(commit_loss).mean()
        return Quantized(*_join(z_q, indices, nearest), torch.cat(clean, -1), *losses, torch.stack(usage))

    def perturb(self, z: Tensor, perturbation: Perturbation) -> Perturbed:
        results = [part.perturb(x, draw) for part, x, draw in self._split(z, perturbation)]
        return Perturbed(*_join(*zip(*results, strict=True)))

    def nearest(self, z: Tensor) -> Tensor:
        return torch.stack([part.nearest(x) for part, x, _ in self._split(z, NO_PERTURBATION)], -1)

    def lookup(self, indices: Tensor) -> Tensor:
        if indices.shape[-1] != len(self.parts):
            raise ValueError(f"indices must end in {len(self.parts)}, one a codebook, found {tuple(indices.shape)}")
        return torch.cat([part.lookup(i) for part, i in zip(self.parts, indices.unbind(-1), strict=True)], -1)

    def unit(self, vectors: Tensor) -> Tensor:
        return torch.cat([part.unit(x) for part, x, _ in self._split(vectors, NO_PERTURBATION)], -1)

    def usage(self, indices: Tensor) -> Tensor:
        return torch.stack([part.usage(i) for part, i in zip(self.parts, indices.unbind(-1), strict=True)])

    def _split(self, z: Tensor, perturbation: Perturbation):
        """Each part, its coordinates, and its draws: the q-th codebook's seed is `seed` + q."""
        for q, (part, x) in enumerate(zip(self.parts, z.chunk(len(self.parts), -1), strict=True)):
            yield part, x, perturbation if q == 0 else perturbation._replace(seed=perturbation.seed + q)


def _join(z_q, indices, nearest) -> tuple[Tensor, Tensor, Tensor]:
    return torch.cat(z_q, -1), torch.stack(indices, -1), torch.stack(nearest, -1)
