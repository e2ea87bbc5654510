"""What is measured of an entry: each task is one pass over images that gives one or more figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import RunConfig
from ..core.errors import UserError
from ..core.files import sha256
from ..evaluation.features.measuring import distance_name
from ..evaluation.metrics.frechet import frechet_distance
from ..evaluation.metrics.moments import FeatureStatistics
from ..evaluation.passes import moments_of
from ..evaluation.perturbing import CLEAN, Setting, how_perturbable, similarity_of
from ..evaluation.pfid import ALPHAS, delta_set, perturbed_moments
from ..evaluation.statistics import load_reference
from ..evaluation.streams import open_stream
from ..generation.batches import GeneratedImages
from ..generation.classes import weights_hash
from ..models.interfaces import is_discrete
from ..models.load import check_fits, load_generator, load_tokenizer, take_statistics
from ..models.registry import family_of, sampler_settings
from .entries import Entry

Moments = dict[str, FeatureStatistics]  # of the sets of images that a task compares, by name
Show = Callable[[int], None]  # told how many images are done


@dataclass(frozen=True)
class Task:
    """One pass over images: what its figures depend on, and how they are found.

    measure(start, stop, show) gives the moments of images start to stop - 1 out of `count`; those of all parts are
    merged, and `conclude` makes figures of them, as JSON can hold them.
    """

    entry: str  # its name
    kind: str
    depends_on: dict[str, Any]
    count: int
    measure: Callable[[int, int, Show], Moments]
    conclude: Callable[[Moments], dict[str, Any]]


class Samples(NamedTuple):
    """Images of an entry's generator, and what they depend on."""

    images: GeneratedImages
    depends_on: dict[str, Any]


class Measuring:
    """Images, features and a reference, and the tasks that an entry has with them.

    Args:
        folder: where the files of the list are.
        images: path for `open_stream`; each tokenizer sees them cut to its own size.
        network: uint8 (B, 3, H, W) -> `.features` (B, F), with `protocol` and `sha256`.
        reference: what generated images are compared with, images or saved statistics; None: no gFID.
        per_class: images of each class that a generator makes.

    One tokenizer and one generator are held at a time: tasks should come entry by entry.
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
    ):
        self.folder, self.network, self.device, self.seed = folder, network, device, seed
        self.reference, self.per_class = reference, per_class
        self.distance = distance_name(network.protocol).lower()
        self._tokenizer = lru_cache(maxsize=1)(self._load_tokenizer)
        self._samples = lru_cache(maxsize=1)(self._open_samples)
        self._stream = cache(lambda size: open_stream(images, size))
        self._images = cache(lambda size: _described(self._stream(size)))
        self._against = cache(lambda size: load_reference(reference, network, size).pool)

    def tasks(self, entry: Entry) -> list[Task]:
        """What is to be measured of an entry, of whose files those that are missing are left out.

        Raises UserError, naming the entry.
        """
        missing = entry.missing(self.folder)
        if entry.file in missing:
            return []
        try:
            tokenizer, _ = self._tokenizer(entry)
            codes = tokenizer.codebook.shape[-2] if is_discrete(tokenizer) else None
            if entry.codebook_size not in (None, codes):
                raise UserError(f"codebook_size: found {entry.codebook_size}, but the file has {codes or 'no'} codes")
            found = [self._reconstruction(entry)]
            if codes and similarity_of(tokenizer) == "dot":
                found.append(self._reconstruction(entry, unperturbed="l2"))
            if entry.generator is not None and self.reference is not None and not missing:
                found.append(self._generation(entry))
        except UserError as error:
            raise UserError(f"{entry.name}: {error}") from error
        return found

    def _reconstruction(self, entry: Entry, **variant: str) -> Task:
        """Of plain reconstructions, and of those under pFID's settings where the tokenizer can be perturbed: encoded
        once for all. variant: `unperturbed` as for `pfid`, whose figures have a name of their own.
        """
        tokenizer, _ = self._tokenizer(entry)
        stream, perturbable = self._stream(tokenizer.image_size), how_perturbable(tokenizer) != "none"
        codes = tokenizer.codebook.shape[-2] if is_discrete(tokenizer) else None
        deltas = dict.fromkeys(delta_set(codes)) if perturbable else ()  # of few codes, some are the same
        settings = [(alpha, delta) for alpha in ALPHAS for delta in deltas]

        def measure(start: int, stop: int, show: Show) -> Moments:
            tokenizer, batches = self._tokenizer(entry)[0], stream.batches(start, stop)
            how = {"seed": self.seed, "first_id": start, "progress": show, **variant}
            found = perturbed_moments(tokenizer, batches, self.network, settings, **how)
            return {"images": found.originals} | {_named(s): moments for s, moments in found.settings.items()}

        def conclude(moments: Moments) -> dict[str, Any]:
            images = moments.pop("images")
            distances = {name: frechet_distance(found, images) for name, found in moments.items()}
            end = "_with_unperturbed_tokens_by_l2" if variant else ""
            return {"codebook_size": codes, "images": images.count} | self._robustness(distances, settings, end)

        key = self._key(entry) | {"settings": settings, "images": self._images(tokenizer.image_size), **variant}
        return Task(entry.name, "-".join(["reconstruction", *variant.values()]), key, len(stream), measure, conclude)

    def _robustness(self, distances: dict[str, float], settings: list[Setting], end: str) -> dict[str, Any]:
        """rFID, and pFID with its cells where there are settings; under names that end with `end`."""
        r, p = f"r{self.distance}{end}", f"p{self.distance}"
        if not settings:
            return {r: distances[_named(CLEAN)]}
        cells = [{"alpha": a, "delta": d, "value": distances[_named((a, d))]} for a, d in settings]
        mean = sum(cell["value"] for cell in cells) / len(cells)
        return {r: distances[_named(CLEAN)], f"{p}{end}": mean, f"{p}_settings{end}": cells}

    def _generation(self, entry: Entry) -> Task:
        """Of class-balanced samples of the entry's generator, decoded by the tokenizer."""
        samples, size = self._samples(entry), self._tokenizer(entry)[0].image_size

        def measure(start: int, stop: int, show: Show) -> Moments:
            batches = self._samples(entry).images.batches(start, stop)
            return {"samples": moments_of(self.network, _counted(batches, show))}

        def conclude(moments: Moments) -> dict[str, Any]:
            value = frechet_distance(moments["samples"], self._against(size))
            return {f"g{self.distance}": value, "samples": moments["samples"].count, "generator": samples.depends_on}

        against = {"name": self.reference, **self._reference_file(size)}
        key = self._key(entry) | samples.depends_on | {"reference": against}
        return Task(entry.name, "generation", key, len(samples.images), measure, conclude)

    def _key(self, entry: Entry) -> dict[str, Any]:
        """What every figure of an entry depends on."""
        features = {"protocol": self.network.protocol, "weights": getattr(self.network, "sha256", None)}
        return {"tokenizer": self._tokenizer(entry)[1], "features": features, "seed": self.seed}

    def _reference_file(self, size: int) -> dict[str, Any]:
        """Which reference it is: statistics by their bytes, images as those of reconstruction."""
        if self.reference.endswith(".npz"):
            return {"sha256": sha256(Path(self.reference))}
        return _described(open_stream(self.reference, size))

    def _load_tokenizer(self, entry: Entry) -> tuple[Any, str]:
        given = {name: getattr(entry, name) for name in ("num_heads", "image_size", "similarity")}
        tokenizer = load_tokenizer(self.folder / entry.file, **given)
        return tokenizer.to(self.device), _identity(tokenizer)

    def _open_samples(self, entry: Entry) -> Samples:
        given, (tokenizer, _) = entry.generator, self._tokenizer(entry)
        sizes = {"num_heads": given.num_heads, "num_tokens": given.num_tokens}
        generator = load_generator(self.folder / given.file, **sizes)
        check_fits(tokenizer, generator)
        take_statistics(generator, tokenizer)
        settings = sampler_settings(getattr(RunConfig(), family_of(generator).sampling))
        if unknown := sorted(given.sampling.keys() - settings.keys()):
            raise UserError(
                f"generator, sampling, {unknown[0]}: no such setting; expected some of {', '.join(settings)}"
            )
        settings |= {name: tuple(v) if isinstance(v, list) else v for name, v in given.sampling.items()}
        depends_on = {"generator": _identity(generator), "sampling": settings, "per_class": self.per_class}
        options = {"per_class": self.per_class, "seed": self.seed, "name": given.file}
        return Samples(GeneratedImages(generator.to(self.device), tokenizer, **options, **settings), depends_on)


def _identity(model: Any) -> str:
    """What tells a model from another: the SHA-256 of its weights, and its shape and settings."""
    return f"{weights_hash(model)} {model.config}"


def _described(stream) -> dict[str, Any]:
    """Which images a stream gives."""
    what = {"name": stream.name, "fingerprint": stream.fingerprint(), "count": len(stream)}
    return what | {"transform": stream.transform}


def _named(setting: Setting) -> str:
    return "{}/{}".format(*setting)


def _counted(batches: Iterable[Tensor], show: Show) -> Iterator[Tensor]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        show(done)
