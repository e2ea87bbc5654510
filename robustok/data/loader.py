"""Batches for training, in an order that is a pure function of (seed, epoch).

So a loader has no state to save: `start` resumes in the middle of an epoch, and every process computes the same order
and takes its own part of each batch.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.random import derive_seed
from .readers import Readers
from .splits import blockwise_permutation, permutation

PIECE = 16  # images that a thread loads at a time, at least

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
        """With inputs, labels and ids on a device, without waiting for it; the rows are the host's."""
        inputs, labels, ids = (value.to(device, non_blocking=True) for value in self[:3])
        return Batch(inputs, labels, ids, self.rows)


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
    pin: bool = False,
) -> Iterator[Batch]:
    """The batches of one epoch from number `start` on, prefetched by `threads` (`default_threads`).

    pin: they lie in page-locked memory, from which a GPU copies while the host goes on.

    `batch_size` counts images over all `world` processes; process `rank` gets the `rank`-th contiguous part of each
    global batch. An incomplete last batch is dropped. With `augment` an image is augmented by (seed, epoch, its id),
    without it gets the transform of evaluation. Raises UserError if the data are fewer than a batch, or the batch
    cannot be dealt out evenly.
    """
    if batch_size > len(dataset):
        raise UserError(f"batch_size = {batch_size}, but there are only {len(dataset)} images; use a smaller batch")
    if batch_size % world:
        raise UserError(f"batch_size = {batch_size} cannot be dealt to {world} processes; use a multiple of {world}")
    order = shuffled(dataset, derive_seed(seed, "order", epoch))
    share = batch_size // world
    firsts = range(start * batch_size + rank * share, len(dataset) - batch_size + 1 + rank * share, batch_size)
    load = partial(load_batch, dataset, seed=seed, epoch=epoch, augment=augment)
    threads = default_threads() if threads is None else threads
    return _joined(load, [order[first : first + share] for first in firsts], threads, pin)


def _joined(load: Callable[[Tensor], Batch], batches: Sequence[Tensor], threads: int, pin: bool) -> Iterator[Batch]:
    """load(rows) for each batch's rows, put together of pieces, some for each thread: the next batch is the work of all
    of them, and what is loaded ahead, about two batches, does not grow with their number.
    """
    size = max(PIECE, len(batches[0]) // (4 * max(threads, 1))) if batches else PIECE
    pieces = [piece for rows in batches for piece in rows.split(size)]
    each = len(pieces) // max(len(batches), 1)
    with closing(prefetch(load, pieces, threads, ahead=2 * each)) as loaded:
        for _ in batches:
            parts = [next(loaded) for _ in range(each)]
            yield Batch(*(_together(values, pin) for values in zip(*parts, strict=True)))


def _together(parts: Sequence[Tensor], pin: bool) -> Tensor:
    """The rows of all parts, copied once."""
    if len(parts) == 1 and not pin:
        return parts[0]
    whole = torch.empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=parts[0].dtype, pin_memory=pin)
    return torch.cat(parts, out=whole)


def shuffled(dataset: Dataset, seed: int) -> Tensor:
    """The positions of a data set, (N,) int64, in an order that depends on it and the seed alone.

    Of one with `blocks` (splits.Blocks) what is read together stays together.
    """
    blocks = getattr(dataset, "blocks", None)
    return permutation(len(dataset), seed) if blocks is None else blockwise_permutation(blocks, seed)


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


def prefetch(
    load: Callable[[S], T], items: Iterable[S], threads: int | None = None, ahead: int = 0
) -> Generator[T, None, None]:
    """load(item) for each item in order, computed ahead by `threads` (`default_threads`); 0: as they are asked for.

    `ahead`: how many results may wait at most; one for each thread in any case. An error of `load` is raised where its
    result would come. What the threads are reading is named where nothing comes for a minute, and RunError raised after
    half an hour of that (readers.py). Leaving the loop cancels what has not begun.
    """
    threads = default_threads() if threads is None else threads
    if threads == 0:
        yield from map(load, items)
        return
    readers = Readers(load, threads)
    try:
        waiting: deque[Future[T]] = deque()
        for item in items:
            waiting.append(readers.submit(item))
            if len(waiting) > max(threads, ahead):
                yield readers.wait(waiting.popleft())
        while waiting:
            yield readers.wait(waiting.popleft())
    finally:
        readers.close()
