"""What a sampling algorithm asks of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from .known_tokens import KnownRuns


class TokenDecoder(Protocol):
    """S sequences that grow by one token a step, or by runs of known tokens. Logits are float32 (S, K)."""

    moved: int  # how often memory that `step` reads has moved: a captured graph of it is then void

    def start(self, classes: Tensor) -> Tensor:
        """Begins new sequences of classes (S,): the logits of token 0. Reads the weights anew."""

    def prepare(self, step: int) -> None:
        """Runs on the host before `step` is called, or its captured graph replayed, for this step."""

    def step(self, tokens: Tensor, step: int | Tensor) -> Tensor:
        """Appends tokens (S,) as token step - 1: the logits of token `step`.

        `step` is an int, or an int64 (1,) on the device where a captured graph is replayed (see `take`).
        """

    def extend(self, tokens: Tensor, runs: KnownRuns) -> Tensor:
        """Appends runs of tokens (R,) in one causal step: logits (k, K) of what follows the rows runs.last."""


class GuidedNetwork(Protocol):
    """A network that makes something of a class, or of none."""

    num_classes: int  # C; class C is the null class

    @property
    def knows_null_class(self) -> bool:
        """Whether it learned to do without a class, which guidance needs."""


class TokenNetwork(GuidedNetwork, Protocol):
    """A generator as the autoregressive sampler sees it."""

    num_tokens: int  # L
    codebook_size: int  # K

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def decoder(self, streams: int, choices: Path | None = None) -> TokenDecoder:
        """The network token by token for S = `streams` sequences.

        choices: file that keeps which kernels were measured as fastest on this GPU; None: the machine's own file.
        """


def take(table: Tensor, index: int | Tensor) -> Tensor:
    """table[index] for an int or an int64 (1,) tensor, whose value the host does not read."""
    return table[index] if isinstance(index, int) else table.index_select(0, index)[0]


class VelocityField(GuidedNetwork, Protocol):
    """A network that says where latents move between data (t = 0) and noise (t = 1)."""

    latent_shape: tuple[int, int]  # (L, D) of one image's latents
    latent_shapes: tuple[tuple[int, ...], ...]  # all shapes in which it takes them, this one first
    path: Literal["linear", "cosine"]  # between data and noise, see samplers/paths.py

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def velocity(self, z_t: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        """dz/dt of z_t (B, ...) at times t (B,) for classes (B,), float32 or the dtype of z_t."""

    def normalized(self, latents: Tensor) -> Tensor:
        """Latents as a tokenizer makes them -> on the network's own scale."""

    def denormalized(self, z: Tensor) -> Tensor:
        """The way back."""
