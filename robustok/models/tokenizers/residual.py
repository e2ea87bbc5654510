"""Residual multi-scale codes (VAR, arXiv 2404.02905; XQ-GAN, arXiv 2412.01762): coarse grids first, then the rest."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...ops import Indices, Perturbed, Quantized, Similarity, vq_nearest
from ...ops.indices import as_indices, count_indices
from ..interfaces import Perturbable
from .perturbation import NO_PERTURBATION, Perturbation

BLEND = 0.5  # share of the convolution's output beside its input


class ResidualQuantizer(nn.Module):
    """One codebook for grids of several sizes; the last is the latents' own, g x g with L = g * g.

    At each scale what is left of the latents is averaged over the scale's cells, the nearest codes by angle are
    enlarged to g x g (bicubic), blended with a 3x3 convolution of themselves and taken away. Codes are not normalised.
    The methods are those of `CodeQuantizer`, with T = sum of scale**2 indices an image, scale after scale.
    Latent perturbation is not defined here: asking for it raises ValueError.
    """

    similarity: Similarity = "cosine"  # how codes are compared
    perturbable: Perturbable = "none"

    def __init__(self, codebook_size: int, code_width: int, scales: tuple[int, ...], convs: int):
        super().__init__()
        self.scales = tuple(scales)
        self.codebook = nn.Parameter(torch.randn(codebook_size, code_width) / codebook_size)
        self.convs = nn.ModuleList(nn.Conv2d(code_width, code_width, 3, padding=1) for _ in range(convs))

    def forward(self, z: Tensor, perturbation: Perturbation = NO_PERTURBATION) -> Quantized:
        """Straight-through sum of all scales; the losses are means over the partial sums after each scale."""
        _refuse(perturbation)
        indices, partial = self._encode(z.detach())
        vq_loss = torch.stack([F.mse_loss(x, z.detach()) for x in partial]).mean()
        commit_loss = torch.stack([F.mse_loss(z, x.detach()) for x in partial]).mean()
        z_q = z + (partial[-1] - z).detach()
        return Quantized(z_q, indices, indices, z_q, vq_loss, commit_loss, self.usage(indices))

    def perturb(self, z: Tensor, perturbation: Perturbation) -> Perturbed:
        _refuse(perturbation)
        indices, partial = self._encode(z)
        return Perturbed(partial[-1], indices, indices)

    def nearest(self, z: Tensor) -> Tensor:
        """Latents (B, L, D) -> indices (B, T)."""
        return self._encode(z)[0]

    def lookup(self, indices: Indices) -> Tensor:
        """Indices (B, T) in [0, K) -> (B, L, D), as the decoder receives them."""
        indices = as_indices("indices", indices, len(self.codebook), self.codebook.device)
        counts = [scale**2 for scale in self.scales]
        if indices.shape[-1] != sum(counts):
            raise ValueError(f"indices must be (B, {sum(counts)}), found {tuple(indices.shape)}")
        parts = indices.split(counts, dim=1)
        return sum(self._contribution(i, part) for i, part in enumerate(parts)).flatten(2).mT

    def unit(self, vectors: Tensor) -> Tensor:
        return vectors

    def usage(self, indices: Tensor) -> Tensor:
        return count_indices(indices, len(self.codebook))

    def _encode(self, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Indices (B, T), and after each scale the sum so far (B, L, D)."""
        grid = self.scales[-1]
        rest = z.float().mT.unflatten(2, (grid, grid))
        total, indices, partial = torch.zeros_like(rest), [], []
        for i, scale in enumerate(self.scales):
            cells = rest if scale == grid else F.interpolate(rest, size=(scale, scale), mode="area")
            indices.append(vq_nearest(cells.flatten(2).mT, self.codebook.detach(), similarity=self.similarity))
            contribution = self._contribution(i, indices[-1])
            total, rest = total + contribution, rest - contribution.detach()
            partial.append(total.flatten(2).mT)
        return torch.cat(indices, dim=1), partial

    def _contribution(self, i: int, indices: Tensor) -> Tensor:
        """What the codes (B, scale**2) of the i-th scale add to the latents: (B, D, g, g)."""
        scale, grid = self.scales[i], self.scales[-1]
        # F.embedding, not indexing, whose gradient is summed in no fixed order by several threads
        maps = F.embedding(indices, self.codebook).mT.unflatten(2, (scale, scale))
        if i < len(self.scales) - 1:
            maps = F.interpolate(maps, size=(grid, grid), mode="bicubic")
        return (1 - BLEND) * maps + BLEND * self.convs[self._conv_of(i)](maps)

    def _conv_of(self, i: int) -> int:
        """Which convolution the i-th scale uses: the one whose place in [0, 1] is nearest to the scale's.

        With the published ten scales and four convolutions the third scale lies in the middle of two; numpy's rounding
        decides, as it did in training.
        """
        count = len(self.convs)
        edge = 1 / (3 if count == 4 else 2) / count
        places = np.linspace(edge, 1 - edge, count)
        return int(np.abs(places - i / max(len(self.scales) - 1, 1)).argmin())


def _refuse(perturbation: Perturbation) -> None:
    if perturbation.num_images != 0 and float(perturbation.alpha) > 0:
        raise ValueError("latent perturbation is not defined for residual multi-scale codes; use alpha 0")
