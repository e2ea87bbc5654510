"""Batches for training, in an order that is a pure function of (seed, epoch).

So a loader has no state to save: `start` resumes in the middle of an epoch, and every process computes the same order
and takes its own part of each batch.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.random import derive_seed
from .splits import permutation

S = TypeVar("S")
T = TypeVar("T")


class Dataset(Protocol):
    """What `batches` reads: an `images.ImageSplit`, or anything else with numbered rows."""

    labels: Tensor  # (N,) int64
    ids: Tensor  # (N,) int64

    def __len__(self) -> int: ...

    def load(self, rows: Tensor, *, seed: int | None = None) -> Tensor:
        """The inputs at positions `rows`, (n, ...); augmented by (seed, id) unless `seed` is None."""


class Batch(NamedTuple):
    """A process's part of a batch, or a micro-batch of it."""

    inputs: Tensor  # (B, ...) from the data set's `load`: uint8 images (B, 3, H, W), or tokens (B, L)
    labels: Tensor  # (B,) int64
    ids: Tensor  # (B,) int64, numbers in the source
    rows: Tensor  # (B,) int64, positions in the data set

    def part(self, first: int, last: int) -> "Batch":
        """Entries first .. last - 1: a micro-batch."""
        return Batch(*(value[first:last] for value in self))

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(value.to(device, non_blocking=True) for value in self))


def batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    augment: bool = True,
    threads: int | None = None,
) -> Iterator[Batch]:
    """The batches of one epoch from number `start` on, prefetched by `threads` (`default_threads`).

    `batch_size` counts images over all `world` processes; process `rank` gets the `rank`-th contiguous part of each
    global batch. An incomplete last batch is dropped. With `augment` an image is augmented by (seed, epoch, its id),
    without it gets the transform of evaluation. Raises UserError if the data are fewer than a batch, or the batch
    cannot be dealt out evenly.
    """
    if batch_size > len(dataset):
        raise UserError(f"batch_size = {batch_size}, but there are only {len(dataset)} images; use a smaller batch")
    if batch_size % world:
        raise UserError(f"batch_size = {batch_size} cannot be dealt to {world} processes; use a multiple of {world}")
    order = permutation(len(dataset), derive_seed(seed, "order", epoch))
    share = batch_size // world

    def load(number: int) -> Batch:
        first = number * batch_size + rank * share
        return load_batch(dataset, order[first : first + share], seed=seed, epoch=epoch, augment=augment)

    return prefetch(load, range(start, len(dataset) // batch_size), threads)


def load_batch(dataset: Dataset, rows: Tensor, *, seed: int, epoch: int, augment: bool = True) -> Batch:
    """The entries at positions `rows` as `batches` of this seed and epoch gives them."""
    augment_seed = derive_seed(seed, "augment", epoch) if augment else None
    return Batch(dataset.load(rows, seed=augment_seed), dataset.labels[rows], dataset.ids[rows], rows)


def in_order(dataset: Dataset, batch_size: int = 128) -> Iterator[Tensor]:
    """The inputs of a whole data set in its order, in batches, with the transform of evaluation."""
    return prefetch(dataset.load, torch.arange(len(dataset)).split(batch_size))


def default_threads() -> int:
    """This process's share of the machine's cores, 1 to 16: image decoding and resizing run outside Python's lock."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
    return max(1, min((os.cpu_count() or 1) // processes, 16))


def prefetch(load: Callable[[S], T], items: Iterable[S], threads: int | None = None) -> Iterator[T]:
    """load(item) for each item in order, computed ahead by a pool; leaving the loop cancels what has not begun."""
    threads = threads or default_threads()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="robustok-data")
    try:
        ahead: deque[Future[T]] = deque()
        for item in items:
            ahead.append(pool.submit(load, item))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
