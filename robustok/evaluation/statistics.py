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

from ..core.device import HostCopies
from ..core.errors import UserError
from ..core.files import sha256, written_whole
from ..core.parsing import parsing
from ..core.progress import Progress
from .full_batches import FullBatches
from .metrics.moments import FeatureStatistics
from .npz import CURE, npz_array, npz_names
from .streams import ImageStream

PART = 5000  # images whose moments are summed on their own
DIGEST = 16  # bytes that stand for an image where duplicates are counted
KEPT = 50_000  # rows of features and logits kept in memory: 600 MB at most
GENERATED, NOT_RECORDED = "as generated", "not recorded"  # transforms that are none
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
    collector = StatisticsCollector(len(stream), keep)
    batches = FullBatches(network, collector.add, PART)
    for batch in Progress(stream.name, len(stream)).track(stream):
        batches.add(batch)
    batches.finish()
    return collector.of_stream(stream, network)


class StatisticsCollector:
    """Moments of what a network gives for `count` images, and evenly spaced rows, at most `keep`, of it.

    Moments are summed part by part, PART images each, and the parts in their order: as the jobs of an array do, each of
    which has a collector for one part, that begins at image `first`.
    """

    def __init__(self, count: int, keep: int = KEPT, first: int = 0):
        self.rows, self.first, self.count = evenly(count, keep), first, 0
        self.moments: dict[str, FeatureStatistics] = {}  # of whole parts
        self.part: dict[str, FeatureStatistics] = {}  # of the images since
        self.kept: dict[str, RowBuffer] = {}
        self.digests: set[bytes] = set()
        self.copies = HostCopies()  # of images that have no digest yet
        self.size: tuple[int, int] | None = None

    def add(self, output, images: Tensor | None = None) -> None:
        """Takes in the next images: `.features` (B, F), and `.spatial` and `.logits` where they are there.

        images: uint8 (B, 3, H, W), among which duplicates are counted.
        """
        for name in ("features", "spatial"):
            if (values := getattr(output, name, None)) is not None:
                if name not in self.part:
                    self.part[name] = FeatureStatistics(values.shape[1], values.device)
                self.part[name].update(values)
        count, position = len(output.features), self.first + self.count
        here = self.rows[(self.rows >= position) & (self.rows < position + count)] - position
        for name in ("features", "logits"):
            if (values := getattr(output, name, None)) is not None:
                self._keep(name, values[here.to(values.device, non_blocking=True)])
        if images is not None:
            self.size = tuple(images.shape[-2:])
            self._digest(self.copies.add(images))
        self.count += count
        if self.part["features"].count >= PART:
            self._close_part()

    def state(self) -> dict[str, Tensor]:
        """All that was taken in, for `join`."""
        self._digest(self.copies.rest())
        self._close_part()
        if self.count == 0:  # a part of which no image could be read
            return {}
        found = {f"moments.{name}": moments.state().cpu() for name, moments in self.moments.items()}
        found |= {f"kept.{name}": rows.filled().cpu().clone() for name, rows in self.kept.items()}
        digests = torch.frombuffer(bytearray(b"".join(sorted(self.digests))), dtype=torch.uint8)
        return found | {"digests": digests.view(-1, DIGEST), "size": torch.tensor(self.size)}

    def join(self, state: dict[str, Tensor]) -> None:
        """Takes in the `state` of the next part."""
        if not state:
            return
        for name, values in state.items():
            kind, _, of = name.partition(".")
            if kind == "moments":
                self.part[of] = FeatureStatistics.from_state(values)
            elif kind == "kept":
                self._keep(of, values)
        self.digests.update(row.tobytes() for row in state["digests"].numpy())
        self.size = tuple(state["size"].tolist())
        self.count += self.part["features"].count
        self._close_part()

    def of_stream(self, stream: ImageStream, network: Callable) -> ImageStatistics:
        """Of all images of a stream. Raises UserError for fewer than two."""
        if self.count < 2:
            raise UserError(
                f"{stream.name}: found {self.count} image, expected at least two (thousands for a figure to report)"
            )
        self._digest(self.copies.rest())
        return self.statistics(
            network,
            name=stream.name,
            transform=stream.transform,
            size=self.size,
            duplicates=self.count - len(self.digests),
            class_counts=None if stream.labels is None else np.bincount(stream.labels).tolist(),
        )

    def statistics(self, network: Callable, **about) -> ImageStatistics:
        """Of all images taken in. `about`: the other fields of ImageStatistics."""
        self._close_part()
        return ImageStatistics(
            protocol=getattr(network, "protocol", type(network).__name__),
            weights=getattr(network, "sha256", None),
            pool=self.moments["features"],
            spatial=self.moments.get("spatial"),
            **{name: rows.filled() for name, rows in self.kept.items()},
            **about,
        )

    def _keep(self, name: str, rows: Tensor) -> None:
        if name not in self.kept:
            self.kept[name] = RowBuffer(len(self.rows) if self.first == 0 else PART, rows)
        self.kept[name].add(rows)

    def _digest(self, batches: list[Tensor]) -> None:
        """Takes the digests of the images of batches on the host."""
        for images in batches:
            flat = images.contiguous()
            self.digests.update(hashlib.blake2b(image.numpy(), digest_size=DIGEST).digest() for image in flat)

    def _close_part(self) -> None:
        for name, part in self.part.items():
            self.moments[name] = self.moments[name].merge(part) if name in self.moments else part
        self.part = {}


class RowBuffer:
    """A matrix filled from the top: a list of batches, joined at the end, would take the memory twice."""

    def __init__(self, count: int, like: Tensor):
        self.matrix, self.count = like.new_empty(count, like.shape[1]), 0

    def add(self, rows: Tensor) -> None:
        self.matrix[self.count : self.count + len(rows)] = rows
        self.count += len(rows)

    def filled(self) -> Tensor:
        return self.matrix[: self.count]


def evenly(count: int, keep: int) -> Tensor:
    """`keep` of 0..count-1 at equal distances, or all where there are fewer: a set sorted by class stays balanced."""
    kept = min(count, keep)
    return torch.arange(kept) * count // max(kept, 1)
