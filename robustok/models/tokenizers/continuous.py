"""What all continuous tokenizers share, whatever the networks are."""

import torch
from torch import Tensor

from ...ops import perturb
from .two_sided import TwoSidedTokenizer


class ContinuousBase(TwoSidedTokenizer):
    """Images -> encoder -> latents -> decoder -> images; images are float (B, 3, S, S) in [-1, 1]."""

    @torch.no_grad()
    def reconstruct(
        self, images: Tensor, noise: float = 0.0, seed: int = 0, sample_ids: Tensor | None = None
    ) -> Tensor:
        """Encode, add Gaussian noise, decode: images, clamped to [-1, 1]. No gradient.

        Args:
            noise: standard deviation of the noise, on the scale of the latents.
            seed, sample_ids: int64 (B,), who each image is (None: 0 .. B - 1): its noise depends on these alone.
        """
        z = self.encode(images)
        if noise:
            ids = None if sample_ids is None else sample_ids.to(z.device)
            z = perturb(z, kind="gaussian", strength=noise, seed=seed, sample_ids=ids).z_q
        return self.decode(z).clamp(-1, 1)
