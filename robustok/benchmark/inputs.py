"""What a benchmark measures with: images, features, a reference, and the models of its entries, opened as needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..core.errors import UserError
from ..core.files import sha256
from ..core.sizes import Size
from ..evaluation.metrics.moments import FeatureStatistics
from ..evaluation.reference import load_reference
from ..evaluation.streams import NpzImages, StoredImages, open_stream
from ..generation.batches import GeneratedImages
from ..generation.classes import weights_hash
from ..models.computing import Precision, compute_in
from ..models.interfaces import LoadedTokenizer
from ..models.load import check_fits, load_generator, load_tokenizer, take_statistics
from ..models.registry import family_of
from ..presets import sampling_defaults
from .entries import Entry

Facts = dict[str, Any]  # what figures depend on, as JSON can hold it


class Samples(NamedTuple):
    """Images of an entry's generator, and what they depend on."""

    images: GeneratedImages
    facts: Facts


class Inputs:
    """Args:
    folder: where the files of the list are.
    images: path for `open_stream`; each tokenizer sees them cut to its own size.
    network: uint8 (B, 3, H, W) -> `.features` (B, F), with `protocol` and `sha256`.
    reference: what generated images are compared with, images or saved statistics; None: no gFID.
    per_class: images of each class that a generator makes.
    precision, compiled: how tokenizers compute, as `compute_in` takes it.

    One tokenizer and one generator are held at a time.
    """

    def __init__(
        self,
        folder: Path,
        images: str,
        network: Callable,
        *,
        device: torch.device,
        reference: str | None = None,
        per_class: int = 50,
        seed: int = 0,
        precision: Precision = "float32",
        compiled: bool = False,
    ):
        self.folder, self.images, self.network, self.device = folder, images, network, device
        self.reference, self.per_class, self.seed = reference, per_class, seed
        self.precision, self.compiled = precision, compiled
        self._tokenizer = lru_cache(maxsize=1)(self._load_tokenizer)
        self.samples = lru_cache(maxsize=1)(self._open_samples)
        self.stream = cache(self._open_stream)
        self.stream_facts = cache(self._describe_stream)
        self.reference_moments = cache(self._load_reference)

    def tokenizer(self, entry: Entry) -> LoadedTokenizer:
        """Of an entry, on the device."""
        return self._tokenizer(entry)[0]

    def facts(self, entry: Entry) -> Facts:
        """What every figure of an entry depends on."""
        features = {"protocol": self.network.protocol, "weights": getattr(self.network, "sha256", None)}
        return {"tokenizer": self._tokenizer(entry)[1], "features": features, "seed": self.seed}

    def reference_facts(self, size: Size) -> Facts:
        """Which reference it is: statistics by their bytes, images as those that are given back."""
        if self.reference.endswith(".npz"):
            return {"name": self.reference, "sha256": sha256(Path(self.reference))}
        return _described(open_stream(self.reference, size))

    def _open_stream(self, size: Size) -> StoredImages | NpzImages:
        return open_stream(self.images, size)

    def _describe_stream(self, size: Size) -> Facts:
        return _described(self.stream(size))

    def _load_reference(self, size: Size) -> FeatureStatistics:
        return load_reference(self.reference, self.network, size).pool

    def _load_tokenizer(self, entry: Entry) -> tuple[LoadedTokenizer, str]:
        given = {name: getattr(entry, name) for name in ("num_heads", "image_size", "similarity")}
        tokenizer = load_tokenizer(self.folder / entry.file, **given)
        identity = _identity(tokenizer) + ("" if self.precision == "float32" else f" in {self.precision}")
        identity += ", compiled" if self.compiled else ""
        return compute_in(tokenizer.to(self.device), self.precision, self.compiled), identity

    def _open_samples(self, entry: Entry) -> Samples:
        given, tokenizer = entry.generator, self.tokenizer(entry)
        sizes = {"num_heads": given.num_heads, "num_tokens": given.num_tokens}
        generator = load_generator(self.folder / given.file, **sizes)
        check_fits(tokenizer, generator)
        take_statistics(generator, tokenizer)
        settings = sampling_defaults(self.folder / given.file, family_of(generator).sampling)
        if unknown := sorted(given.sampling.keys() - settings.keys()):
            raise UserError(
                f"generator, sampling, {unknown[0]}: no such setting; expected some of {', '.join(settings)}"
            )
        settings |= {name: tuple(v) if isinstance(v, list) else v for name, v in given.sampling.items()}
        facts = {"generator": _identity(generator), "sampling": settings, "per_class": self.per_class}
        options = {"per_class": self.per_class, "seed": self.seed, "name": given.file, "compiled": self.compiled}
        return Samples(GeneratedImages(generator.to(self.device), tokenizer, **options, **settings), facts)


def _identity(model: Any) -> str:
    """What tells a model from another: the SHA-256 of its weights, and its shape and settings."""
    return f"{weights_hash(model)} {model.config}"


def _described(stream: StoredImages | NpzImages) -> Facts:
    """Which images a stream of files gives."""
    what = {"name": stream.name, "fingerprint": stream.fingerprint(), "count": len(stream)}
    return what | {"transform": stream.transform}
