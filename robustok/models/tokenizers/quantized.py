"""What all tokenizers with a quantiser between encoder and decoder share, whatever the networks are."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...ops import Indices, Similarity
from ..interfaces import Perturbable
from .perturbation import NO_PERTURBATION, Perturbation
from .two_sided import TwoSidedTokenizer


class TokenizerOutput(NamedTuple):
    """What one training forward gives; `images` are decoded from `z_q` and not clamped."""

    images: Tensor  # (B, 3, S, S)
    latents: Tensor  # (B, L, D) of the encoder, as they are compared with the codes
    z_q_clean: Tensor  # (B, L, D) before perturbation, straight-through
    z_q: Tensor  # (B, L, D) after perturbation, straight-through
    nearest: Tensor  # (B, L) int64 before perturbation
    indices: Tensor  # (B, L) int64 after perturbation
    vq_loss: Tensor  # scalar, unweighted mean
    commit_loss: Tensor  # scalar, unweighted mean
    usage: Tensor  # (K,) int64, how often each code is in `nearest`


class QuantizedTokenizer(TwoSidedTokenizer):
    """Images -> encoder -> z -> `quantizer` -> z_q -> decoder -> images; images are float (B, 3, S, S) in [-1, 1].

    A family sets `quantizer` beside what TwoSidedTokenizer asks for.
    """

    quantizer: nn.Module  # a CodeQuantizer, or one with its methods

    @property
    def codebook(self) -> Tensor:
        """(K, D) as stored, (Q, K, D) of Q codebooks."""
        return self.quantizer.codebook

    @property
    def similarity(self) -> Similarity:
        """How latents and codes are compared: by squared distance ("l2"), of unit vectors ("cosine"), or by product."""
        return self.quantizer.similarity

    @property
    def normalize(self) -> bool:
        """Whether l2-normalised vectors are compared."""
        return self.similarity == "cosine"

    @property
    def perturbable(self) -> Perturbable:
        return self.quantizer.perturbable

    @torch.no_grad()
    def tokenize(self, images: Tensor) -> Tensor:
        """Images -> indices of their codes, int64 (B, T) or (B, T, Q). No gradient.

        Row-major over a grid; with several scales, one grid after the other, the coarsest first.
        """
        return self.quantizer.nearest(self.encode(images))

    def lookup(self, indices: Indices) -> Tensor:
        """Indices (B, T) or (B, T, Q) in [0, K) -> z_q (B, L, D), as the decoder receives them.

        `indices` may be a list, a NumPy array or a tensor, of integers of any width.
        Raises: ValueError for an index outside [0, K) or a wrong number of them, TypeError for other than integers.
        """
        return self.quantizer.lookup(indices)

    @torch.no_grad()
    def detokenize(self, indices: Indices) -> Tensor:
        """Indices as `tokenize` gives them -> images, clamped to [-1, 1]. No gradient."""
        return self.decode(self.lookup(indices)).clamp(-1, 1)

    @torch.no_grad()
    def reconstruct(
        self,
        images: Tensor,
        alpha: float = 0.0,
        delta: int = 1,
        seed: int = 0,
        sample_ids: Tensor | None = None,
        neighbors: str = "latent",
    ) -> Tensor:
        """Encode, quantise, perturb every image (beta = 1), decode: images, clamped to [-1, 1]. No gradient."""
        perturbation = Perturbation(alpha, 1.0, delta, seed, None, sample_ids, neighbors)
        return self.decode(self.quantizer.perturb(self.encode(images), perturbation).z_q).clamp(-1, 1)

    def forward(
        self, images: Tensor, *, perturbation: Perturbation | None = None, quantize: bool = True
    ) -> TokenizerOutput:
        """One training forward. `perturbation` None replaces no latent.

        `quantize` False is the continuous warm-up before the codebook is set: the decoder receives the latents
        themselves, on the scale of the codes; both quantiser losses are zero.
        """
        z = self.encode(images)
        if not quantize:
            return self._continuous(z)
        perturbation = perturbation or NO_PERTURBATION
        if perturbation.kind == "adversarial" and (count := perturbation.count(len(images))):
            clean = self.quantizer.lookup(self.quantizer.nearest(z[:count].detach()))
            perturbation = perturbation.against(self.decode, clean, images)
        q = self.quantizer(z, perturbation)
        decoded = self.decode(q.z_q)
        return TokenizerOutput(decoded, z, q.z_q_clean, q.z_q, q.nearest, q.indices, q.vq_loss, q.commit_loss, q.usage)

    def _continuous(self, z: Tensor) -> TokenizerOutput:
        z = self.quantizer.unit(z)
        nearest = self.quantizer.nearest(z.detach())
        zero = z.new_zeros(())
        return TokenizerOutput(self.decode(z), z, z, z, nearest, nearest, zero, zero, self.quantizer.usage(nearest))
