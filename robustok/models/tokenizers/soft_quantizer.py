"""SoftVQ (arXiv 2412.10958): a latent is an average of the codes of a codebook, and so continuous."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SoftQuantizer(nn.Module):
    """Q codebooks of K codes; consecutive blocks of L / Q latents use one codebook each.

    normalize: latents and codes are unit vectors. temperature: of the softmax over their inner products.
    """

    def __init__(self, codebooks: int, codebook_size: int, width: int, *, normalize: bool, temperature: float):
        super().__init__()
        self.normalize, self.temperature = normalize, temperature
        self.codebook = nn.Parameter(F.normalize(torch.randn(codebooks, codebook_size, width), dim=-1))

    def forward(self, z: Tensor) -> Tensor:
        """z (B, L, D), float32 -> the averages (B, L, D), float32."""
        codes = F.normalize(self.codebook, dim=-1) if self.normalize else self.codebook
        return (self._products(z, codes) / self.temperature).softmax(-1).matmul(codes).flatten(1, 2)

    def nearest(self, z: Tensor) -> Tensor:
        """z (B, L, D) -> index of the code that weighs most, int64 (B, Q, L / Q)."""
        codes = F.normalize(self.codebook, dim=-1) if self.normalize else self.codebook
        return self._products(z, codes).argmax(-1)

    def _products(self, z: Tensor, codes: Tensor) -> Tensor:
        """Inner products (B, Q, L / Q, K) of latents with the codes of their block's codebook."""
        blocks = z.unflatten(1, (len(codes), -1))
        return (F.normalize(blocks, dim=-1) if self.normalize else blocks) @ codes.mT
