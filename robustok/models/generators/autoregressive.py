"""What every autoregressive generator can do: sample with guidance, and give the logits it samples from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...ops import Indices
from ...ops.indices import as_indices
from ...samplers.autoregressive import AutoregressiveSampler
from ...samplers.interfaces import TokenDecoder
from ...samplers.settings import SamplingSettings
from ..saving import Pretrained


class Autoregressive(Pretrained):
    """A generator of L tokens out of K codes for C classes; class C is the null class.

    A subclass sets codebook_size, num_classes and num_tokens, and has `forward(tokens, classes, orders) -> (B, L, K)`
    and `decoder(streams, choices)`, the network token by token.
    """

    codebook_size: int  # K
    num_classes: int  # C
    num_tokens: int  # L

    @property
    def knows_null_class(self) -> bool:
        """Whether some classes were left out in training, without which guidance makes no sense."""
        return getattr(self.config, "class_dropout", 1.0) > 0

    def decoder(self, streams: int, choices: Path | None = None) -> TokenDecoder:
        """See samplers/interfaces.py: TokenNetwork."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def logits(self, tokens: Indices, classes: Indices | None, *, order: Tensor | None = None) -> Tensor:
        """Teacher-forced logits (B, L, K); row i predicts tokens[order[i]].

        tokens: integers (B, L) in raster order. classes: integers (B,), None = the null class. order: (L,) or (B, L),
        None = raster order. Differentiable. Raises ValueError for tokens of another shape.
        """
        tokens = as_indices("tokens", tokens, self.codebook_size, self.device)
        if tokens.ndim != 2 or tokens.shape[1] != self.num_tokens:
            raise ValueError(f"tokens: found {tuple(tokens.shape)}, expected (B, {self.num_tokens})")
        if classes is None:
            classes = torch.full_like(tokens[:, 0], self.num_classes)
        classes = as_indices("classes", classes, self.num_classes + 1, self.device)
        orders = order if order is None else order.expand(len(tokens), -1)
        return self(tokens, classes, orders)

    def sampler(
        self, *, compile: bool = False, choices: Path | None = None, **settings: float | None
    ) -> AutoregressiveSampler:
        """A sampler that keeps its buffers, and on a GPU its captured graph, from batch to batch.

        settings: those of SamplingSettings. compile, choices: as AutoregressiveSampler's. Raises ValueError for a
        setting out of its range.
        """
        return AutoregressiveSampler(self, SamplingSettings(**settings), compile=compile, choices=choices)

    def generate(
        self,
        classes: Indices,
        *,
        seed: int,
        sample_ids: Indices | None = None,
        guidance_scale: float,
        guidance_power: float | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        keep_tokens: Indices | None = None,
        keep_ratio: float = 0.0,
    ) -> Tensor:
        """Samples one sequence for each class: int64 (B, L) on the device of the weights.

        Every call makes a new sampler, which on a GPU captures a graph: whoever samples several batches takes
        `sampler` and calls its `generate`.

        Args:
            classes: (B,), 0..C-1; these and tokens may be tensors, NumPy arrays or lists of integers of any width.
            seed: the tokens are a pure function of weights, class, seed and sample id.
            sample_ids: int64 (B,), who each image is; None means 0..B-1.
            guidance_scale: s of classifier-free guidance; 1 is none.
            guidance_power: p of the power-cosine ramp from 1 to s (section 5); None keeps s constant.
            temperature: from 0, which takes the likeliest code.   top_k: 0 keeps all.   top_p: in (0, 1].
            keep_tokens: (B, L). Each token is overwritten by this one with probability keep_ratio (the
                preservation ratio sigma, section 6), and the sequence goes on from it.

        Raises: ValueError for an argument out of its range or of the wrong shape.
        """
        settings = SamplingSettings(guidance_scale, guidance_power, temperature, top_k, top_p)
        return AutoregressiveSampler(self, settings).generate(
            classes, seed=seed, sample_ids=sample_ids, keep_tokens=keep_tokens, keep_ratio=keep_ratio
        )

    def guided_logits(
        self,
        tokens: Indices,
        classes: Indices,
        *,
        guidance_scale: float,
        guidance_power: float | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """What `generate` samples from at each step if the tokens drawn were `tokens` (B, L): float32 (B, L, K)."""
        settings = SamplingSettings(guidance_scale, guidance_power, temperature)
        return AutoregressiveSampler(self, settings).logits(tokens, classes)


def check_shape(config: Any) -> None:
    """Raises ValueError where a generator's config lacks a size that tokenizer or data decide, or heads do not fit."""
    for name in ("codebook_size", "num_classes", "num_tokens"):
        value = getattr(config, name)
        if value is None or value < 1:
            raise ValueError(f"{name}: found {value}, expected a positive number (from the tokenizer or the data)")
    if config.width % config.heads:
        raise ValueError(f"heads must divide width, found width {config.width} and heads {config.heads}")


def token_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """(mean cross-entropy in nats, float32; terms to log: loss, accuracy as a share) of logits (B, L, K)."""
    loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
    return loss, {"loss": loss, "accuracy": (logits.argmax(-1) == targets).float().mean()}
