"""Batches of images, and one pass of a network over them, for what needs no more than that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from .intervals import FoldedStatistics
from .metrics.moments import FeatureStatistics

Statistics = TypeVar("Statistics", FeatureStatistics, FoldedStatistics)


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


def moments_of(network: Callable, batches: Iterable[Tensor], kind: type[Statistics] = FeatureStatistics) -> Statistics:
    """Moments of the network's features of uint8 batches (b, 3, H, W), with one batch in memory at a time.

    kind: `FoldedStatistics` where intervals are wanted.
    """
    statistics = None
    for images in batches:
        features = network(images).features
        statistics = statistics or kind(features.shape[1], features.device)
        statistics.update(features)
    if statistics is None:
        raise ValueError("batches: found none, expected at least one")
    return statistics


def moments_and_agreement(
    network: Callable, batches: Iterable[Tensor], classes: Tensor, kind: type[Statistics] = FeatureStatistics
) -> tuple[Statistics, float]:
    """The same, and the share of the images, in [0, 1], that the network's logits put into their class.

    classes: int64 (N,), the class of every image in the order of the batches.
    """
    read: list[Tensor] = []

    def watching(images: Tensor):
        output = network(images)
        read.append(output.logits.argmax(1).cpu())
        return output

    statistics = moments_of(watching, batches, kind)
    return statistics, int((torch.cat(read) == classes).sum()) / len(classes)
