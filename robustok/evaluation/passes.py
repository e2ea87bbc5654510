"""Batches of images, and one pass of a network over them, for what needs no more than that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..core.errors import UserError
from .full_batches import FullBatches
from .intervals import FoldedStatistics
from .judging import FoldedRows
from .metrics.moments import FeatureStatistics

Statistics = TypeVar("Statistics", FeatureStatistics, FoldedStatistics, FoldedRows)


def in_batches(images: Tensor | Iterable[Tensor], batch_size: int) -> Iterable[Tensor]:
    """One tensor of images in parts of batch_size; batches as they are."""
    return images.split(batch_size) if isinstance(images, Tensor) else images


def first_images(batches: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    """Batches of the first `count` images."""
    for batch in batches:
        if count <= 0:
            return
        yield batch[:count]
        count -= len(batch)


class FeatureMoments(Generic[Statistics]):
    """Moments of a network's features of images that come in batches of any size.

    kind: `FoldedStatistics` where intervals are wanted, `FoldedRows` for the unbiased distances, too. watch: called
    with each output of the network, in order.
    """

    def __init__(self, network: Callable, kind: Callable[..., Statistics], watch: Callable[[Any], Any] | None = None):
        self.kind, self.watch = kind, watch
        self.found: Statistics | None = None
        self.batches = FullBatches(network, self._take)

    def add(self, images: Tensor) -> None:
        """Takes in the next images, uint8 (b, 3, H, W) on any device."""
        self.batches.add(images)

    def finish(self) -> Statistics:
        """The moments of all images. Raises UserError where there were none."""
        self.batches.finish()
        if self.found is None:
            raise UserError("images: found none, expected at least one")
        return self.found

    def _take(self, output: Any, images: Tensor) -> None:
        features = output.features
        self.found = self.found or self.kind(features.shape[1], features.device)
        self.found.update(features)
        if self.watch is not None:
            self.watch(output)


def moments_of(
    network: Callable,
    batches: Iterable[Tensor],
    kind: Callable[..., Statistics] = FeatureStatistics,
    watch: Callable[[Any], Any] | None = None,
) -> Statistics:
    """Moments of the network's features of uint8 batches (b, 3, H, W), of any sizes; one full batch is in memory.

    Arguments and errors as `FeatureMoments` has them.
    """
    return moments_in({"": network}, batches, kind, {} if watch is None else {"": watch})[""]


def moments_in(
    networks: Mapping[str, Callable],
    batches: Iterable[Tensor],
    kind: Callable[..., Statistics] = FeatureStatistics,
    watch: Mapping[str, Callable[[Any], Any]] = MappingProxyType({}),
) -> dict[str, Statistics]:
    """The same in the features of several networks, by their names, in one pass over the images.

    watch: by the name of a network, where one is watched.
    """
    found = {name: FeatureMoments(network, kind, watch.get(name)) for name, network in networks.items()}
    for images in batches:
        for moments in found.values():
            moments.add(images)
    return {name: moments.finish() for name, moments in found.items()}


def moments_and_agreement(
    network: Callable, batches: Iterable[Tensor], classes: Tensor, kind: Callable[..., Statistics] = FeatureStatistics
) -> tuple[Statistics, float]:
    """The same, and the share of the images, in [0, 1], that the network's logits put into their class.

    classes: int64 (N,), the class of every image in the order of the batches.
    """
    read = ReadClasses()
    statistics = moments_of(network, batches, kind, read)
    return statistics, read.agreement(classes)


class ReadClasses:
    """What a network's logits put images into, collected output by output."""

    def __init__(self) -> None:
        self.classes: list[Tensor] = []  # on the network's device, which nothing waits for

    def __call__(self, output: Any) -> None:
        self.classes.append(output.logits.argmax(1))

    def agreement(self, classes: Tensor) -> float:
        """The share of the images, in [0, 1], that are in their class. classes: int64 (N,), of every image in order."""
        return int((torch.cat(self.classes).cpu() == classes).sum()) / len(classes)
