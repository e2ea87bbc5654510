"""Latents of all images of an evaluation, encoded once and kept in a temporary file: memory does not grow with them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.device import HostCopies
from ..core.errors import UserError
from ..data.transforms import from_uint8
from .intervals import FoldedStatistics
from .passes import FeatureMoments
from .perturbing import decoder_latents, device_of


class RowFile:
    """float32 rows of one shape, appended and then read, in a file without a name that goes when this does."""

    def __init__(self):
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as this object is used)
        self._shape: tuple[int, ...] = ()
        self._count = 0
        self._copies = HostCopies()  # of rows that are not in the file yet

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Tensor) -> None:
        """rows (n, ...), of the shape of those before."""
        self._shape = tuple(rows.shape[1:])
        self._count += len(rows)
        self._write(self._copies.add(rows.detach().float()))

    def _write(self, batches: list[Tensor]) -> None:
        for rows in batches:
            self._file.write(np.ascontiguousarray(rows.numpy()).data)

    def array(self) -> np.ndarray:
        """All rows (N, ...), mapped from the file; of at least one row."""
        self._write(self._copies.rest())
        self._file.flush()
        return np.memmap(self._file, np.float32, "r", shape=(self._count, *self._shape))

    def read(self, rows: slice | Tensor) -> Tensor:
        """The rows of a slice, or of int64 numbers (n,), copied into memory."""
        return torch.from_numpy(np.array(self.array()[rows if isinstance(rows, slice) else rows.numpy()]))


class Encoded(NamedTuple):
    """Images as a tokenizer and a network see them."""

    latents: RowFile  # (N, L, D), as the decoder gets them
    features: RowFile | None  # (N, F), where they were to be kept
    reference: FoldedStatistics  # of the images themselves


@torch.inference_mode()
def encode_all(
    tokenizer,
    batches: Iterable[Tensor],
    network: Callable,
    keep_features: bool = False,
    statistics: type[FoldedStatistics] = FoldedStatistics,
) -> Encoded:
    """Encodes uint8 batches (B, 3, H, W) in one pass. Raises UserError for fewer than two images."""
    latents, features = RowFile(), RowFile() if keep_features else None
    keep = None if features is None else lambda output: features.append(output.features)
    reference = FeatureMoments(network, statistics, keep)
    for batch in batches:
        batch = batch.to(device_of(tokenizer), non_blocking=True)
        reference.add(batch)
        latents.append(decoder_latents(tokenizer, from_uint8(batch)))
    if len(latents) < 2:
        raise UserError(f"images: found {len(latents)}, expected at least two")
    return Encoded(latents, features, reference.finish())


def slices(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of `size` that cover [0, count)."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
