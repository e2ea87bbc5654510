"""Images of a generator in batches: the one loop that everything goes through which samples more than one batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from ..data.transforms import to_uint8
from ..evaluation.statistics import GENERATED
from ..models.computing import precision_of
from ..models.interfaces import Generator, Sampler, Tokenizer, is_discrete
from .classes import weights_hash

BATCH = 64  # images of a batch of GeneratedImages


@torch.inference_mode()
def generate_batches(
    sampler: Sampler,
    classes: Tensor,
    *,
    seed: int,
    batch_size: int,
    sample_ids: Tensor | None = None,
    kept: Iterable[Tensor] | None = None,
    keep_ratio: float = 0.0,
) -> Iterator[Tensor]:
    """Yields what `sampler` makes of classes (N,), batch after batch and in order: tokens (b, L), or
    latents (b, L, D), on its device.

    All batches go through the network with the shape of `batch_size` images: the last is filled up with copies of its
    last image, which are not yielded. So a GPU captures one graph for all of them, and an image is the same whatever
    stands beside it.

    Args:
        classes: int64 (N,), on any device.
        sample_ids: int64 (N,), who each image is; None means 0..N-1. Image i depends on the seed, its class and its id.
        kept: for each batch in turn, taken when its turn comes, what the share keep_ratio of is kept of: tokens int64
            (b, L) that overwrite those drawn, or latents (b, L, D) from which sampling starts, with noise.
    """
    ids = torch.arange(len(classes)) if sample_ids is None else sample_ids
    parts = classes.split(batch_size)
    kept = [None] * len(parts) if kept is None else kept
    for part, who, rows in zip(parts, ids.split(batch_size), kept, strict=True):
        keep = {}
        if rows is not None:
            name = "keep_latents" if rows.is_floating_point() else "keep_tokens"
            keep = {name: _filled(rows, batch_size), "keep_ratio": keep_ratio}
        batch = sampler.generate(_filled(part, batch_size), seed=seed, sample_ids=_filled(who, batch_size), **keep)
        yield batch[: len(part)]


@torch.inference_mode()
def decode_generated(tokenizer: Tokenizer, generated: Tensor) -> Tensor:
    """uint8 images (B, 3, S, S) of tokens (B, L), or of latents (B, L, D) of a continuous tokenizer.

    They may be on any device, not in page-locked memory that is about to change: nothing waits for the copy.
    """
    generated = generated.to(tokenizer.device, non_blocking=True)
    if is_discrete(tokenizer):
        return to_uint8(tokenizer.detokenize(generated))
    return to_uint8(tokenizer.decode(generated))


@torch.inference_mode()
def decode_batches(tokenizer: Tokenizer, generated: Tensor, batch_size: int = 128) -> Iterator[Tensor]:
    """Tokens or latents (N, ...), on any device -> uint8 images in batches (b, 3, H, W) on the tokenizer's device."""
    for part in generated.split(batch_size):
        yield decode_generated(tokenizer, part)


def _filled(rows: Tensor, count: int) -> Tensor:
    """`count` rows: those given, then copies of the last."""
    return torch.cat([rows, rows[-1:].expand(count - len(rows), *rows.shape[1:])])


class GeneratedImages:
    """An ImageStream of class-balanced samples: `per_class` of each class, classes in turn, decoded by a tokenizer.

    Image i has sample id i. `sampling` are the settings of `generator.sampler`, and compiled its `compile`; raises its
    ValueError for one out of range.
    """

    transform = GENERATED

    def __init__(
        self,
        generator: Generator,
        tokenizer: Tokenizer,
        *,
        per_class: int,
        seed: int,
        name: str,
        compiled: bool = False,
        **sampling,
    ):
        self.sampler, self.tokenizer = generator.sampler(**sampling, compile=compiled), tokenizer
        self.generator, self.sampling, self.compiled = generator, sampling, compiled
        self.seed, self.name = seed, name
        self.labels: np.ndarray | None = np.repeat(np.arange(generator.num_classes), per_class)

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """SHA-256 of everything that the images depend on: weights, how is computed, classes, seed and settings."""
        said = [weights_hash(self.generator), weights_hash(self.tokenizer), self.labels.tolist(), self.seed]
        said += [precision_of(self.tokenizer), str(next(self.generator.parameters()).dtype), self.compiled]
        return hashlib.sha256(json.dumps([*said, self.sampling], sort_keys=True, default=str).encode()).hexdigest()

    def generated(self, start: int = 0, stop: int | None = None) -> Iterator[Tensor]:
        """Batches of generated tokens (b, L) or latents (b, L, D), of images start to stop - 1 or of all."""
        classes, ids = (torch.from_numpy(rows[start:stop]) for rows in (self.labels, np.arange(len(self))))
        batch_size = min(BATCH, len(self))
        return generate_batches(self.sampler, classes, seed=self.seed, batch_size=batch_size, sample_ids=ids)

    def __iter__(self) -> Iterator[Tensor]:
        return self.batches(0, len(self))

    @torch.inference_mode()
    def batches(self, start: int, stop: int) -> Iterator[Tensor]:
        for batch in self.generated(start, stop):
            yield decode_generated(self.tokenizer, batch)


class DecodedImages:
    """An ImageStream of generated tokens or latents (N, ...), as `tokenizer` decodes them.

    labels: (N,), the class of each.
    """

    transform = GENERATED

    def __init__(self, tokenizer: Tokenizer, generated: Tensor, labels: np.ndarray, name: str):
        self.tokenizer, self.rows, self.name = tokenizer, generated, name
        self.labels: np.ndarray | None = labels

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Tensor]:
        return decode_batches(self.tokenizer, self.rows)
