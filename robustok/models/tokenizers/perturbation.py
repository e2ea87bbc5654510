"""How a step of training perturbs the latents that a decoder gets, for tokenizers with codes and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ops import Similarity, decoding_gradient
from ...ops.perturbation import CODE_KINDS, NOISE_KINDS, Kind, PerturbedLatents, image_strengths, perturb, uses
from ...ops.vq.checks import count_images
from ..interfaces import Tokenizer, is_discrete


class Perturbation(NamedTuple):
    """Latent perturbation of one step (METHOD.md section 3); a kind passes over what it does not use.

    alpha: share of an image's tokens, in [0, 1]. beta: share of the batch's images, in [0, 1]. delta: neighbours drawn
    from, in [1, K]. seed: of the step. num_images: how many of this batch's first images; None: floor(beta * B).
    sample_ids: int64 (B,), who each image is; None: 0 .. B - 1. neighbors: of the latent or of its nearest code.
    kind: as `robustok.perturb`. strength: largest strength of noise; each image has one of its own, uniform up to it.
    gradient: (B, L, D), which "adversarial" needs: `against`.
    """

    alpha: float | Tensor
    beta: float
    delta: int | Tensor
    seed: int | Tensor
    num_images: int | None = None
    sample_ids: Tensor | None = None
    neighbors: str = "latent"
    kind: Kind = "neighbor"
    strength: float = 0.0
    gradient: Tensor | None = None

    def of_neighbors(self) -> dict[str, Any]:
        """The arguments of `vq_perturb` and `vq_quantize`."""
        names = ("alpha", "beta", "delta", "seed", "num_images", "sample_ids", "neighbors")
        return {name: getattr(self, name) for name in names}

    def count(self, batch: int) -> int:
        """How many of a batch's images are perturbed."""
        return count_images(batch, self.beta, self.num_images)

    def first(self, count: int) -> Perturbation:
        """The same for a batch of the first `count` images alone, all of them perturbed."""
        ids, gradient = (None if x is None else x[:count] for x in (self.sample_ids, self.gradient))
        return self._replace(num_images=count, sample_ids=ids, gradient=gradient)

    def of_part(self, q: int, parts: int) -> Perturbation:
        """That of the q-th of several codebooks side by side, with a seed of its own: `seed` + q."""
        gradient = None if self.gradient is None else self.gradient.chunk(parts, -1)[q]
        return self._replace(seed=self.seed + q, gradient=gradient)

    def against(self, decode: Callable[[Tensor], Tensor], z_q: Tensor, images: Tensor) -> Perturbation:
        """With the gradient of the squared error of `decode` by the unperturbed latents z_q (n, L, D) of the first n
        images; images is the whole batch. Costs a pass of the decoder forward and back.
        """
        gradient = decoding_gradient(decode, z_q, images[: len(z_q)])
        rest = gradient.new_zeros(len(images) - len(z_q), *gradient.shape[1:])
        return self._replace(gradient=torch.cat([gradient, rest]))

    def apply(self, z: Tensor, codebook: Tensor | None = None, similarity: Similarity | None = None):
        """(z_q, indices, nearest) of latents z (B, L, D), as `robustok.perturb` gives them."""
        given: dict[str, Any] = {"similarity": similarity} if codebook is not None else {}
        if self.kind in NOISE_KINDS:
            ids = torch.arange(len(z), device=z.device) if self.sample_ids is None else self.sample_ids
            given["strength"] = image_strengths(self.strength, self.seed, ids)
        given |= {name: getattr(self, name) for name in ("delta", "neighbors", "gradient") if uses(self.kind, name)}
        where = {"alpha": self.alpha, "beta": self.beta, "num_images": self.num_images, "sample_ids": self.sample_ids}
        out: PerturbedLatents = perturb(z, codebook, self.kind, seed=self.seed, **where, **given)
        return out.z_q, out.indices, out.nearest


NO_PERTURBATION = Perturbation(alpha=0.0, beta=0.0, delta=1, seed=0, num_images=0)


def kind_for(tokenizer: Tokenizer, asked: Kind | None) -> Kind | None:
    """The kind that main training of a tokenizer uses; None: none. Not asked for: near codes where it has codes.

    Raises ValueError where continuous latents are to be replaced by codes.
    """
    if is_discrete(tokenizer):
        return asked or "neighbor"
    if asked in CODE_KINDS:
        raise ValueError(f"found {asked}, which replaces codes; latents of this tokenizer are continuous")
    return asked
