"""One pass over a stream of images: moments, kept features and logits, duplicates; saved as a reference to reuse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.files import sha256, written_whole
from ..core.parsing import parsing
from ..core.progress import Progress
from ..core.sizes import Size
from .metrics.moments import FeatureStatistics
from .npz import CURE, npz_array, npz_header, npz_names
from .streams import ImageStream, NpzImages, open_stream

KEPT = 50_000  # rows of features and logits kept in memory: 600 MB at most
GENERATED, NOT_RECORDED = "as generated", "not recorded"  # transforms that are none
PROBED = 64  # pixels along one side of the image that tells how many features a network gives
KEPT_REFERENCE = 10_000  # rows of features saved with a reference, as many images as ADM's references have


@dataclass
class ImageStatistics:
    """What the metrics need to know of a set of images, and how it was found."""

    name: str
    protocol: str | None  # of the features; None: a file that does not say
    weights: str | None  # SHA-256 of the network's weights
    transform: str  # what was done to the stored pixels
    pool: FeatureStatistics  # of the 2048 features
    spatial: FeatureStatistics | None = None  # of sFID's features
    features: Tensor | None = None  # (n, F) float32, evenly spaced rows of the set
    logits: Tensor | None = None  # (n, classes) of the same rows, without bias
    duplicates: int | None = None  # images that equal an earlier one byte for byte
    class_counts: list[int] | None = None
    file_hash: str | None = None  # SHA-256 of the file this was read from
    size: tuple[int, int] | None = None  # height and width in pixels, where known

    @property
    def count(self) -> int | None:
        return self.pool.count

    def thinned_features(self) -> Tensor | None:
        """The kept rows of features, thinned evenly to the 10,000 that are saved with a reference."""
        return None if self.features is None else self.features[evenly(len(self.features), KEPT_REFERENCE)]

    def describe(self) -> dict:
        """For metrics.json: everything but the arrays."""
        names = ("name", "count", "protocol", "weights", "transform", "size", "duplicates", "file_hash")
        return {name: getattr(self, name) for name in names}

    def save(self, path: str | Path) -> None:
        """An .npz with mu, sigma, mu_s, sigma_s as other tools name them, rows of features, and what they are."""
        arrays = {"mu": self.pool.mean.cpu().numpy(), "sigma": self.pool.covariance.cpu().numpy()}
        if self.spatial is not None:
            arrays |= {"mu_s": self.spatial.mean.cpu().numpy(), "sigma_s": self.spatial.covariance.cpu().numpy()}
        if self.features is not None:
            arrays["features"] = self.thinned_features().cpu().numpy()
        with written_whole(Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez(file, count=np.int64(self.count), about=json.dumps(self.describe()), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> ImageStatistics:
        """Reads `save`'s file, or ADM's (mu, sigma, mu_s, sigma_s), which names no protocol. Raises UserError."""
        names = npz_names(path)
        pool = FeatureStatistics.load(path)
        spatial = FeatureStatistics.load(path, spatial=True) if "mu_s" in names else None
        features = None
        if "features" in names:
            features = torch.from_numpy(npz_array(path, "features"))
            if features.shape[1:] != (pool.dim,) or not features.is_floating_point() or not features.isfinite().all():
                found = f"features {features.dtype} {tuple(features.shape)}"
                raise UserError(f"{path}: {found} are not finite, or do not fit a mean of {pool.dim}; make it again")
        about = {"name": str(path), "protocol": None, "weights": None, "transform": NOT_RECORDED}
        if "about" in names:
            about |= _read_about(path)
        return cls(pool=pool, spatial=spatial, features=features, file_hash=sha256(Path(path)), **about)


def _read_about(path: str | Path) -> dict:
    """What `save` says beside the arrays. Raises UserError for something else."""
    kinds = {"name": str, "protocol": str | None, "weights": str | None, "transform": str, "duplicates": int | None}
    with parsing(path, "saved statistics", CURE):
        said = json.loads(str(npz_array(path, "about")))
        known = {name: value for name, value in said.items() if name in (*kinds, "size")}
        if wrong := [name for name, kind in kinds.items() if name in known and not isinstance(known[name], kind)]:
            raise ValueError(f"its {wrong[0]} is {known[wrong[0]]!r:.60}")
        if known.get("size") is not None:
            height, width = known["size"]
            known["size"] = int(height), int(width)
    return known


def collect(stream: ImageStream, network: Callable, *, keep: int = KEPT) -> ImageStatistics:
    """Features and moments of all images of a stream, with progress shown.

    `network` is `InceptionFeatures` or any callable with uint8 (B, 3, H, W) -> object with `.features` (B, F), and
    optionally `.spatial` and `.logits`. Raises UserError for fewer than two images.
    """
    collector, digests, size = StatisticsCollector(len(stream), keep), set(), None
    for batch in Progress(stream.name, len(stream)).track(stream):
        collector.add(network(batch))
        size = tuple(batch.shape[-2:])
        digests.update(hashlib.blake2b(image.numpy(), digest_size=16).digest() for image in batch.cpu().contiguous())
    if collector.count < 2:
        raise UserError(
            f"{stream.name}: found {collector.count} image, expected at least two (thousands for a figure to report)"
        )
    return collector.statistics(
        network,
        name=stream.name,
        transform=stream.transform,
        size=size,
        duplicates=collector.count - len(digests),
        class_counts=None if stream.labels is None else np.bincount(stream.labels).tolist(),
    )


class StatisticsCollector:
    """Moments of what a network gives for `count` images, and evenly spaced rows, at most `keep`, of it."""

    def __init__(self, count: int, keep: int = KEPT):
        self.rows, self.count = evenly(count, keep), 0
        self.moments: dict[str, FeatureStatistics] = {}
        self.kept: dict[str, RowBuffer] = {}

    def add(self, output) -> None:
        """Takes in the next images: `.features` (B, F), and `.spatial` and `.logits` where they are there."""
        for name in ("features", "spatial"):
            if (values := getattr(output, name, None)) is not None:
                if name not in self.moments:
                    self.moments[name] = FeatureStatistics(values.shape[1], values.device)
                self.moments[name].update(values)
        count = len(output.features)
        here = self.rows[(self.rows >= self.count) & (self.rows < self.count + count)] - self.count
        for name in ("features", "logits"):
            if (values := getattr(output, name, None)) is not None:
                if name not in self.kept:
                    self.kept[name] = RowBuffer(len(self.rows), values)
                self.kept[name].add(values[here.to(values.device)])
        self.count += count

    def statistics(self, network: Callable, **about) -> ImageStatistics:
        """Of all images taken in. `about`: the other fields of ImageStatistics."""
        return ImageStatistics(
            protocol=getattr(network, "protocol", type(network).__name__),
            weights=getattr(network, "sha256", None),
            pool=self.moments["features"],
            spatial=self.moments.get("spatial"),
            **{name: rows.filled() for name, rows in self.kept.items()},
            **about,
        )


class RowBuffer:
    """A matrix filled from the top: a list of batches, joined at the end, would take the memory twice."""

    def __init__(self, count: int, like: Tensor):
        self.matrix, self.count = like.new_empty(count, like.shape[1]), 0

    def add(self, rows: Tensor) -> None:
        self.matrix[self.count : self.count + len(rows)] = rows
        self.count += len(rows)

    def filled(self) -> Tensor:
        return self.matrix[: self.count]


def load_reference(path: str | Path, network: Callable, size: Size | None = None) -> ImageStatistics:
    """What to compare with: images (see `open_stream`; cut to `size`), or statistics from an .npz, saved ones or ADM's.

    ADM's files hold both: statistics are taken as they are, and features for precision, recall and KID from the images.
    Raises UserError for a reference of another protocol, other weights or another dimension.
    """
    return open_reference(path, network, size)()


def open_reference(path: str | Path, network: Callable, size: Size | None = None) -> Callable[[], ImageStatistics]:
    """Opens what `load_reference` loads and refuses what it would, before any work; the result loads it when called."""
    if Path(path).suffix != ".npz":
        stream = open_stream(path, size)
        return lambda: collect(stream, network, keep=KEPT_REFERENCE)
    names = npz_names(path)
    if "mu" not in names:
        images = NpzImages(path)
        return lambda: collect(images, network, keep=KEPT_REFERENCE)
    reference = ImageStatistics.load(path)
    _refuse_other(reference, network, path)
    if not ("arr_0" in names and len(npz_header(path, "arr_0")[0]) == 4):
        return lambda: reference
    images = NpzImages(path)
    reference.size = images.shape[1:3]

    def with_features() -> ImageStatistics:
        if reference.features is None:
            reference.features = collect(images, network, keep=KEPT_REFERENCE).features
        return reference

    return with_features


def _refuse_other(reference: ImageStatistics, network: Callable, path: str | Path) -> None:
    """Raises UserError for statistics that are not of this network's features."""
    for what, found, expected in (
        ("features", reference.protocol, getattr(network, "protocol", None)),
        ("weights", reference.weights, getattr(network, "sha256", None)),
    ):
        if found is not None and found != expected:
            raise UserError(
                f"{path}: reference statistics of other {what} ({found}) than those used now ({expected});"
                " figures would not mean anything: make the reference again with `evaluate reference`"
            )
    if reference.protocol is None:  # nothing but their number tells whose features these are
        probe = torch.zeros(1, 3, PROBED, PROBED, dtype=torch.uint8)
        if (dim := network(probe).features.shape[1]) != reference.pool.dim:
            raise UserError(
                f"{path}: reference of {reference.pool.dim} features, but the network used now gives {dim}: make the"
                " reference again with `evaluate reference`"
            )


def evenly(count: int, keep: int) -> Tensor:
    """`keep` of 0..count-1 at equal distances, or all where there are fewer: a set sorted by class stays balanced."""
    kept = min(count, keep)
    return torch.arange(kept) * count // max(kept, 1)
