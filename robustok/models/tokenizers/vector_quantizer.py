"""A vector quantiser for a network of one's own: everything that a training step needs of it, in one call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...core import distributed
from ...core.annealing import anneal_ratio
from ...core.errors import UserError
from ...core.random import SHUFFLE, derive_seed, keyed_words
from ...ops import Indices, Similarity, vq_nearest
from ...ops.grid import from_grid, to_grid
from ...ops.indices import count_indices
from .dead_codes import count_unused, restart_dead
from .perturbation import NO_PERTURBATION, Perturbation
from .quantizer import CodeQuantizer

KMEANS_ROUNDS = 10


class QuantizedInput(NamedTuple):
    """What `VectorQuantizer` gives; as a tuple, `quantized, indices, loss = vq(x)`."""

    quantized: Tensor  # as x in shape and dtype, straight-through; perturbed in training mode, where alpha is not 0
    indices: Tensor  # int64 (B, L) or (B, H, W): the nearest codes, never the perturbed ones
    loss: Tensor  # 0-d float32: codebook_weight * codebook loss + commitment_weight * commitment loss


class VectorQuantizer(nn.Module):
    """Latents (B, L, dim) or (B, dim, H, W) -> codes of a codebook, with losses, usage and latent perturbation.

    The codebook is a parameter, which the codebook loss trains. State is in buffers, so that training resumes from
    `state_dict` as if it had not stopped. Random draws depend on (seed, step, sample id) alone.

    Args:
        dim: width D of a latent. codebook_size: K.
        similarity: how latents and codes are compared: "l2", "cosine" (unit vectors; so are the results) or "dot".
        codebook_weight, commitment_weight: of the two mean squared errors in the loss.
        alpha, beta, delta: latent perturbation in training mode (METHOD.md section 3): in the first floor(beta * B)
            images of a batch each token is replaced with probability alpha by one of the delta codes nearest to it.
        anneal: steps (start, end) between which alpha and delta fall to `anneal_to` of themselves; None: never.
        kmeans_start: the first training batch sets the codebook: k-means of its latents, of which there must be K.
        restart_after: training steps after which a code that was no latent's nearest is set on a latent of the batch;
            None: never.
        seed: 0 to 2**63 - 1.

    Raises: UserError, a ValueError, for a setting out of its range, and inputs of another width.
    """

    steps: Tensor  # 0-d int64, training steps done
    unused: Tensor  # int64 (K,), training steps since a code was some latent's nearest

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        similarity: Similarity = "l2",
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
        alpha: float = 0.0,
        beta: float = 1.0,
        delta: int = 1,
        anneal: tuple[int, int] | None = None,
        anneal_to: float = 0.5,
        kmeans_start: bool = False,
        restart_after: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        shares = {"alpha": alpha, "beta": beta, "anneal_to": anneal_to}
        if wrong := {name: value for name, value in shares.items() if not 0 <= value <= 1}:
            raise UserError(f"found {wrong}, expected shares from 0 to 1")
        if not 1 <= delta <= codebook_size:
            raise UserError(f"delta: found {delta}, expected 1 to {codebook_size}, the number of codes")
        if restart_after is not None and restart_after < 1:
            raise UserError(f"restart_after: found {restart_after}, expected a number of steps from 1, or None")
        self.codes = CodeQuantizer(codebook_size, dim, similarity)
        self.codebook_weight, self.commitment_weight = codebook_weight, commitment_weight
        self.alpha, self.beta, self.delta = alpha, beta, delta
        self.anneal, self.anneal_to = anneal, anneal_to
        self.kmeans_start, self.restart_after, self.seed = kmeans_start, restart_after, seed
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("unused", torch.zeros(codebook_size, dtype=torch.int64))

    @property
    def codebook(self) -> nn.Parameter:
        """(K, D)"""
        return self.codes.codebook

    def forward(self, x: Tensor, sample_ids: Tensor | None = None) -> QuantizedInput:
        """Quantise latents (B, L, D), or (B, D, H, W), which is told by the number of dimensions.

        sample_ids: int64 (B,), who each image is: the same image gets the same draw for any batch split. None: 0 to
        B - 1. In training mode each call is a step: it counts, and the codebook may be set anew before it is used.
        """
        z = from_grid(x) if x.ndim == 4 else x
        if z.ndim != 3 or z.shape[-1] != self.codebook.shape[1]:
            D = self.codebook.shape[1]
            raise UserError(f"x: found shape {tuple(x.shape)}, expected (B, L, {D}) or (B, {D}, H, W)")
        if self.training:
            step = int(self.steps)
            self._prepare(z, step)
        q = self.codes(z, self.perturbation(step, sample_ids) if self.training else NO_PERTURBATION)
        if self.training:
            self._count(q.usage)
        loss = self.codebook_weight * q.vq_loss + self.commitment_weight * q.commit_loss
        quantized, indices = q.z_q.to(x.dtype), q.nearest
        if x.ndim == 4:
            quantized, indices = to_grid(quantized, x.shape[2]), indices.unflatten(1, x.shape[2:])
        return QuantizedInput(quantized, indices, loss)

    def perturbation(self, step: int, sample_ids: Tensor | None = None) -> Perturbation:
        """That of a training step: alpha and delta annealed, a seed of its own."""
        ratio = 1.0
        if self.anneal is not None:
            ratio = anneal_ratio(step, start=self.anneal[0], end=self.anneal[1], end_ratio=self.anneal_to)
        delta, seed = max(1, int(ratio * self.delta)), derive_seed(self.seed, "perturb", step)
        return Perturbation(ratio * self.alpha, self.beta, delta, seed, sample_ids=sample_ids)

    def lookup(self, indices: Indices) -> Tensor:
        """Codes of `indices` (B, L) -> (B, L, D), or (B, H, W) -> (B, D, H, W), as the decoder gets them."""
        codes = self.codes.lookup(indices)
        return codes.movedim(-1, 1) if codes.ndim == 4 else codes

    def usage(self, steps: int = 100) -> Tensor:
        """Share of the codes that were some latent's nearest in the last `steps` training steps: 0-d float32."""
        return (self.unused < self.steps.clamp(max=steps)).float().mean()

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Set the codebook to the k-means of latents (B, L, D) or (B, D, H, W), at least K; the same on all processes.

        Raises: UserError, a ValueError, for fewer latents.
        """
        rows = self._rows(from_grid(x) if x.ndim == 4 else x)
        K = len(self.codebook)
        if len(rows) < K:
            raise UserError(
                f"k-means start: found {len(rows)} latents in the batch, expected at least the {K} codes; call "
                "start(latents) with more of them, or leave kmeans_start out"
            )
        places = torch.arange(len(rows), device=rows.device)
        order = keyed_words(derive_seed(self.seed, "kmeans"), SHUFFLE, places, 0)[0].argsort(stable=True)
        centres = rows[order[:K]]
        for _ in range(KMEANS_ROUNDS):
            nearest = vq_nearest(rows, centres, similarity=self.codes.similarity)
            centres = self.codes.unit(_means(rows, nearest, centres))
        self.codes.set_codebook(distributed.from_main(centres))

    @torch.no_grad()
    def _prepare(self, z: Tensor, step: int) -> None:
        """What is done to the codebook before a training step uses it."""
        if step == 0 and self.kmeans_start:
            self.start(z)
        if self.restart_after is not None:
            seed = derive_seed(self.seed, "restart", step)
            restart_dead(self.codebook, self.unused, self.restart_after, self._rows(z), seed)

    @torch.no_grad()
    def _count(self, usage: Tensor) -> None:
        self.steps += 1
        count_unused(self.unused, usage)

    def _rows(self, z: Tensor) -> Tensor:
        """All latents (N, D), float32, on the scale of the codes."""
        return self.codes.unit(z.detach().float()).flatten(0, 1)


def _means(rows: Tensor, labels: Tensor, empty: Tensor) -> Tensor:
    """Mean (K, D) of the rows (N, D) of each label; that of `empty` (K, D) where there is none. In one fixed order."""
    order, counts = labels.argsort(stable=True), count_indices(labels, len(empty))
    sums = torch.cat([rows.new_zeros(1, rows.shape[1], dtype=torch.float64), rows[order].double().cumsum(0)])
    ends = counts.cumsum(0)
    means = (sums[ends] - sums[ends - counts]) / counts.clamp_min(1)[:, None]
    return torch.where(counts[:, None] > 0, means.float(), empty)
