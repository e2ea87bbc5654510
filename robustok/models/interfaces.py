"""What the rooms above ask of a tokenizer and of a generator, whatever its family. No base class is needed.

Shapes: B images, L latents an image, D their width, K codes. Images are float (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from ..core.sizes import Size
from ..ops import Indices, Similarity

Terms = dict[str, Tensor]  # loss terms and figures of a step by name, 0-d

# How a discrete tokenizer's latents can be perturbed:
#   "codes"   each latent is one code of `codebook` (K, D): its neighbours are known from there
#   "itself"  by its own `reconstruct(images, alpha, delta, ...)` alone (several codebooks)
#   "none"    not defined
Perturbable = Literal["codes", "itself", "none"]


@runtime_checkable
class Tokenizer(Protocol):
    """Images <-> latents z (B, L, D)."""

    image_size: Size  # pixels along one side, or (height, width)
    num_latents: int  # L

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(L, D) of `encode`'s result."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def encode(self, images: Tensor) -> Tensor:
        """Images -> z (B, L, D), float32."""

    def decode(self, z_q: Tensor) -> Tensor:
        """Latents (B, L, D), as the decoder was trained on -> images, not clamped; differentiable."""


@runtime_checkable
class DiscreteTokenizer(Tokenizer, Protocol):
    """A tokenizer whose latents are codes of a codebook."""

    num_tokens: int  # T, indices an image (of each codebook); L but for residual codes
    codebook: Tensor  # (K, D) as stored, or (Q, K, D) of Q codebooks
    similarity: Similarity  # how latents and codes are compared
    perturbable: Perturbable

    def tokenize(self, images: Tensor) -> Tensor:
        """Images -> int64 (B, T), or (B, T, Q). No gradient."""

    def lookup(self, indices: Indices) -> Tensor:
        """Indices (B, T) or (B, T, Q), a tensor or a list -> z_q (B, L, D), as the decoder receives them."""

    def detokenize(self, indices: Indices) -> Tensor:
        """Indices -> images, clamped to [-1, 1]. No gradient."""


@runtime_checkable
class ContinuousTokenizer(Tokenizer, Protocol):
    """A tokenizer without a codebook."""

    def reconstruct(
        self, images: Tensor, noise: float = 0.0, seed: int = 0, sample_ids: Tensor | None = None
    ) -> Tensor:
        """Images -> images, clamped, with Gaussian noise of this standard deviation on the latents. No gradient."""


def is_discrete(tokenizer: Any) -> TypeGuard[DiscreteTokenizer]:
    """Whether a tokenizer makes tokens; a continuous one (which may have a codebook inside) makes latents alone."""
    return hasattr(tokenizer, "tokenize")


class TrainableTokenizer(Tokenizer, Protocol):
    """What main training and post-training ask beside that, of discrete and continuous tokenizers alike."""

    last_layer: torch.nn.Parameter  # of the decoder, where the adaptive adversarial weight compares gradients

    def encoder_parameters(self) -> Iterator[torch.nn.Parameter]:
        """The parameters that the tokens or latents of an image depend on: the encoder's and the codebook."""

    def freeze_encoder(self) -> None:
        """Stops the encoder side from learning, for good."""


class Sampler(Protocol):
    """Samples batch after batch with the same settings; buffers and captured graphs are reused."""

    device: torch.device
    streams: int  # sequences an image goes through the network as: 2 with guidance

    def generate(self, classes: Tensor, *, seed: int, sample_ids: Tensor | None = None, **keep: Any) -> Tensor:
        """What the generator makes of classes (B,): tokens or latents, a pure function of class, seed and sample id."""


@runtime_checkable
class Generator(Protocol):
    """Makes what a tokenizer decodes, of a class."""

    num_classes: int
    config: Any  # its config dataclass

    def loss(
        self, inputs: Tensor, classes: Tensor, *, seed: int, sample_ids: Tensor, **schedule: float
    ) -> tuple[Tensor, Terms]:
        """(loss to differentiate, terms to log) of a training batch; what is drawn depends on (seed, sample id)."""

    def sampler(self, *, compile: bool = False, choices: Path | None = None, **settings: Any) -> Sampler:
        """A sampler with these settings; raises UserError, a ValueError, for one out of its range."""

    def generate(self, classes: Tensor, *, seed: int, sample_ids: Tensor | None = None, **settings: Any) -> Tensor:
        """One batch of a new sampler: whoever loops over batches keeps a `sampler`."""


@runtime_checkable
class TokenGenerator(Generator, Protocol):
    """A generator of T tokens out of K codes."""

    codebook_size: int
    num_tokens: int

    def logits(self, tokens: Tensor, classes: Tensor | None, *, order: Tensor | None = None) -> Tensor:
        """Teacher-forced logits (B, T, K)."""

    def cache_bytes(self, streams: int) -> int:
        """Bytes of keys and values that attention reads to sample one image with `streams` streams."""


@runtime_checkable
class LatentGenerator(Generator, Protocol):
    """A generator of latents, which follows a velocity from noise (time 1) to data (time 0)."""

    latent_shape: tuple[int, int]  # (L, D)

    def velocity(self, z_t: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        """The network's own output, as z_t, on its own scale; t (B,)."""

    def integrate(self, z: Tensor, classes: Tensor, *, steps: int, **settings: Any) -> Tensor:
        """From a state to data, on the network's own scale; draws nothing."""


def makes_latents(generator: Any) -> TypeGuard[LatentGenerator]:
    """Whether a generator makes latents; another makes tokens."""
    return hasattr(generator, "latent_shape")


class LoadedTokenizer(torch.nn.Module, DiscreteTokenizer, TrainableTokenizer):
    """The type of what `load_tokenizer` returns: a torch module that is a tokenizer. Only for annotations."""

    config: Any  # its config dataclass
    grid: Size  # latents along one side, or (rows, columns) of them

    def reconstruct(
        self,
        images: Tensor,
        alpha: float = 0.0,
        delta: int = 1,
        seed: int = 0,
        sample_ids: Tensor | None = None,
        neighbors: str = "latent",
    ) -> Tensor:
        """Images -> images, clamped to [-1, 1], with perturbed latents (beta = 1). No gradient."""
        raise NotImplementedError


class LoadedGenerator(torch.nn.Module, TokenGenerator):
    """The type of what `load_generator` returns: a torch module that is a generator. Only for annotations."""
