"""What is measured of an entry: each task is one pass over images that gives one or more figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.errors import UserError
from ..evaluation.features.measuring import distance_name
from ..evaluation.interpolation import interpolation_fid
from ..evaluation.metrics.frechet import frechet_distance
from ..evaluation.metrics.moments import FeatureStatistics
from ..evaluation.noise import STRENGTHS, noise_fid
from ..evaluation.passes import moments_of
from ..evaluation.perturbing import CLEAN, Setting, how_perturbable, similarity_of
from ..evaluation.pfid import ALPHAS, delta_set, perturbed_moments
from ..evaluation.streams import ImageStream
from ..models.interfaces import is_discrete
from .entries import Entry
from .inputs import Inputs

Moments = dict[str, FeatureStatistics]  # of the sets of images that a task compares, by name
Show = Callable[[int], None]  # told how many images are done


@dataclass(frozen=True)
class Task:
    """One pass over images: what its figures depend on, and how they are found.

    measure(start, stop, show) gives the moments of images start to stop - 1 out of `count`; those of all parts are
    merged, and `conclude` makes figures of them, as JSON can hold them. Where `conclude` is None the images cannot be
    parted: `measure`, of all of them, gives the figures.
    """

    entry: str  # its name
    kind: str
    depends_on: dict[str, Any]
    count: int
    measure: Callable[[int, int, Show], Any]
    conclude: Callable[[Moments], dict[str, Any]] | None = None


class Measuring:
    """The tasks that an entry has with the inputs of a benchmark; they should come entry by entry."""

    def __init__(self, inputs: Inputs):
        self.inputs = inputs
        self.distance = distance_name(inputs.network.protocol).lower()

    def tasks(self, entry: Entry) -> list[Task]:
        """What is to be measured of an entry, of whose files those that are missing are left out.

        Raises UserError, naming the entry.
        """
        missing = entry.missing(self.inputs.folder)
        if entry.file in missing:
            return []
        try:
            tokenizer = self.inputs.tokenizer(entry)
            codes = tokenizer.codebook.shape[-2] if is_discrete(tokenizer) else None
            if entry.codebook_size not in (None, codes):
                raise UserError(f"codebook_size: found {entry.codebook_size}, but the file has {codes or 'no'} codes")
            found = [self._reconstruction(entry) if codes else self._noise(entry), self._interpolation(entry)]
            if codes and similarity_of(tokenizer) == "dot":
                found.append(self._reconstruction(entry, unperturbed="l2"))
            if entry.generator is not None and self.inputs.reference is not None and not missing:
                found.append(self._generation(entry))
        except UserError as error:
            raise UserError(f"{entry.name}: {error}") from error
        return found

    def _reconstruction(self, entry: Entry, **variant: str) -> Task:
        """Of plain reconstructions, and of those under pFID's settings where the tokenizer can be perturbed: encoded
        once for all. variant: `unperturbed` as for `pfid`, whose figures have a name of their own.
        """
        tokenizer = self.inputs.tokenizer(entry)
        stream, perturbable = self.inputs.stream(tokenizer.image_size), how_perturbable(tokenizer) != "none"
        codes = tokenizer.codebook.shape[-2] if is_discrete(tokenizer) else None
        deltas = dict.fromkeys(delta_set(codes)) if perturbable else ()  # of few codes, some are the same
        settings = [(alpha, delta) for alpha in ALPHAS for delta in deltas]

        def measure(start: int, stop: int, show: Show) -> Moments:
            tokenizer, batches = self.inputs.tokenizer(entry), stream.batches(start, stop)
            how = {"seed": self.inputs.seed, "first_id": start, "progress": show, **variant}
            found = perturbed_moments(tokenizer, batches, self.inputs.network, settings, **how)
            return {"images": found.originals} | {_named(s): moments for s, moments in found.settings.items()}

        def conclude(moments: Moments) -> dict[str, Any]:
            images = moments.pop("images")
            distances = {name: frechet_distance(found, images) for name, found in moments.items()}
            end = "_with_unperturbed_tokens_by_l2" if variant else ""
            return {"codebook_size": codes, "images": images.count} | self._robustness(distances, settings, end)

        images = self.inputs.stream_facts(tokenizer.image_size)
        key = self.inputs.facts(entry) | {"settings": settings, "images": images, **variant}
        return Task(entry.name, "-".join(["reconstruction", *variant.values()]), key, len(stream), measure, conclude)

    def _robustness(self, distances: dict[str, float], settings: list[Setting], end: str) -> dict[str, Any]:
        """rFID, and pFID with its cells where there are settings; under names that end with `end`."""
        r, p = f"r{self.distance}{end}", f"p{self.distance}"
        if not settings:
            return {r: distances[_named(CLEAN)]}
        cells = [{"alpha": a, "delta": d, "value": distances[_named((a, d))]} for a, d in settings]
        mean = sum(cell["value"] for cell in cells) / len(cells)
        return {r: distances[_named(CLEAN)], f"{p}{end}": mean, f"{p}_settings{end}": cells}

    def _noise(self, entry: Entry) -> Task:
        """Of the reconstructions of a continuous tokenizer, plain and under noise on its latents."""

        def measure(tokenizer, stream: ImageStream, show: Show) -> dict[str, Any]:
            found = noise_fid(tokenizer, stream, self.inputs.network, seed=self.inputs.seed, progress=show)
            cells = [{"strength": strength, "value": value} for strength, value in found.table.items()]
            named = {"r": found.rfid, "n": found.mean}
            figures = {f"{letter}{self.distance}": value for letter, value in named.items()}
            return {"images": found.count, **figures, f"n{self.distance}_settings": cells}

        return self._undivided(entry, "noise", measure, strengths=STRENGTHS)

    def _interpolation(self, entry: Entry) -> Task:
        """Of images decoded half-way between latents."""

        def measure(tokenizer, stream: ImageStream, show: Show) -> dict[str, Any]:
            found = interpolation_fid(tokenizer, stream, self.inputs.network, progress=show)
            return {f"i{self.distance}": found.value}

        return self._undivided(entry, "interpolation", measure)

    def _undivided(self, entry: Entry, kind: str, measure: Callable, **settings: Any) -> Task:
        """A task that needs all images at once: measure(tokenizer, stream, show) gives the figures."""
        size = self.inputs.tokenizer(entry).image_size
        stream = self.inputs.stream(size)
        key = self.inputs.facts(entry) | settings | {"images": self.inputs.stream_facts(size)}
        return Task(
            entry.name,
            kind,
            key,
            len(stream),
            lambda start, stop, show: measure(self.inputs.tokenizer(entry), stream, show),
        )

    def _generation(self, entry: Entry) -> Task:
        """Of class-balanced samples of the entry's generator, decoded by the tokenizer."""
        size = self.inputs.tokenizer(entry).image_size
        samples, facts = self.inputs.samples(entry)  # the images hold models: no closure of a task may hold them

        def measure(start: int, stop: int, show: Show) -> Moments:
            batches = self.inputs.samples(entry).images.batches(start, stop)
            return {"samples": moments_of(self.inputs.network, _counted(batches, show))}

        def conclude(moments: Moments) -> dict[str, Any]:
            value = frechet_distance(moments["samples"], self.inputs.reference_moments(size))
            return {f"g{self.distance}": value, "samples": moments["samples"].count, "generator": facts}

        key = self.inputs.facts(entry) | facts | {"reference": self.inputs.reference_facts(size)}
        return Task(entry.name, "generation", key, len(samples), measure, conclude)


def _named(setting: Setting) -> str:
    return "{}/{}".format(*setting)


def _counted(batches: Iterable[Tensor], show: Show) -> Iterator[Tensor]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        show(done)
