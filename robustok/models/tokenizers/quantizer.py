"""Vector quantisers: codebooks, and the ops that compare latents with them (METHOD.md sections 2 and 3)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...ops import Indices, Perturbed, Quantized, Similarity, vq_nearest, vq_perturb, vq_quantize
from ...ops.indices import as_indices, count_indices
from ...ops.vq import normalize_rows
from ..interfaces import Perturbable
from .perturbation import NO_PERTURBATION, Perturbation


class CodeQuantizer(nn.Module):
    """K codes of width D, and their `similarity`: by squared distance, "cosine": of unit vectors, "dot": by product.

    Comparisons are float32 whatever the autocast mode: in bfloat16 several per cent of the indices would change.
    """

    perturbable: Perturbable = "codes"

    def __init__(self, codebook_size: int, code_width: int, similarity: Similarity = "cosine"):
        super().__init__()
        self.similarity = similarity
        self.codebook = nn.Parameter(torch.randn(codebook_size, code_width))

    def forward(self, z: Tensor, perturbation: Perturbation = NO_PERTURBATION) -> Quantized:
        """Quantise and perturb latents z (B, L, D): the result of `vq_quantize`, in one pass for the paper's kind.

        Indices are -1 where another kind puts in what is no code.
        """
        fused = perturbation if perturbation.kind == "neighbor" else NO_PERTURBATION
        q = vq_quantize(z.float(), self.codebook.float(), similarity=self.similarity, **fused.of_neighbors())
        count = perturbation.count(len(z))
        if fused is perturbation or count == 0:
            return q
        moved = self.perturb(z[:count], perturbation.first(count))
        z_q, indices = torch.cat([moved.z_q, q.z_q[count:]]), torch.cat([moved.indices, q.indices[count:]])
        return q._replace(z_q=z_q, indices=indices)

    def perturb(self, z: Tensor, perturbation: Perturbation) -> Perturbed:
        """Perturb latents z (B, L, D) without training losses; the result of `vq_perturb`."""
        if perturbation.kind == "neighbor":
            return vq_perturb(
                z.float(), self.codebook.float(), similarity=self.similarity, **perturbation.of_neighbors()
            )
        return Perturbed(*perturbation.apply(z.float(), self.codebook.float(), self.similarity))

    def nearest(self, z: Tensor) -> Tensor:
        """Latents (..., D) -> index of the nearest code, int64 (...)."""
        return vq_nearest(z.float(), self.codebook.float(), similarity=self.similarity)

    def lookup(self, indices: Indices) -> Tensor:
        """Codes of `indices` (...) in [0, K) -> (..., D), as the decoder receives them.

        `indices` are a tensor, array or list of integers; errors as `as_indices`.
        """
        indices = as_indices("indices", indices, len(self.codebook), self.codebook.device)
        return self.unit(F.embedding(indices, self.codebook))

    def unit(self, vectors: Tensor) -> Tensor:
        """Vectors (..., D) on the scale of the codes: l2-normalised for "cosine", else unchanged."""
        return normalize_rows(vectors, self.similarity == "cosine")

    def usage(self, indices: Tensor) -> Tensor:
        """How often each code is in `indices`: (K,) int64."""
        return count_indices(indices, len(self.codebook))

    @torch.no_grad()
    def set_codebook(self, codes: Tensor) -> None:
        """Replace the codebook by `codes` (K, D), for instance centres of k-means."""
        if codes.shape != self.codebook.shape:
            raise ValueError(f"codes must have shape {tuple(self.codebook.shape)}, found {tuple(codes.shape)}")
        self.codebook.copy_(codes)


class ProductQuantizer(nn.Module):
    """Q quantisers side by side (XQ-GAN, arXiv 2412.01762): each takes its share of a latent's Q * D coordinates.

    Its methods are those of `CodeQuantizer`; indices are (B, T, Q), `usage` is (Q, K), losses are means over the Q.
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

    def lookup(self, indices: Indices) -> Tensor:
        indices = as_indices("indices", indices)
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
            yield part, x, perturbation.of_part(q, len(self.parts))


def _join(z_q, indices, nearest) -> tuple[Tensor, Tensor, Tensor]:
    return torch.cat(z_q, -1), torch.stack(indices, -1), torch.stack(nearest, -1)
