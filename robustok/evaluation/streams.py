"""Images to evaluate, as streams of uint8 batches: image files, or an .npz of samples.

A stream is iterated once or more, knows its length, and says in `transform` what was done to the pixels. No stream
holds its images: memory does not grow with their number.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.files import sha256
from ..core.sizes import Size, say_size, sides
from ..data.decode import BadImage
from ..data.digits import Digits, means_digits
from ..data.images import ImageSource, fingerprint, open_source, say_what_was_found
from ..data.loader import prefetch
from ..data.readers import reading
from ..data.transforms import center_crop, to_array
from .npz import MOST_BYTES, MOST_IMAGES, npz_header, npz_labels, npz_names, open_npz, read_header

BATCH = 50  # images; a part of PART, so that parts are summed alike (evaluation/statistics.py)
BAD_SHARE = 0.001  # unreadable images are left out up to this share


class ImageStream(Protocol):
    """uint8 batches (B, 3, H, W) of one size, in a fixed order."""

    name: str  # of the images, for people
    transform: str  # what was done to the stored pixels
    labels: np.ndarray | None  # (N,) class of each image, where known

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Tensor]: ...

    def batches(self, start: int, stop: int) -> Iterator[Tensor]:
        """Images start to stop - 1 alone, in batches; the others are not read."""

    def fingerprint(self) -> str:
        """A hash of which images these are."""


class StoredImages:
    """The images of a source (a folder, tar shards, Parquet files), in its order.

    size None: as stored, all of one size. Else resized and centre-cropped to it as for training's evaluation. What
    cannot be read (an image, a part of a shard) is named in a warning and left out; UserError beyond 0.1 % of the
    images, or where sizes differ.
    """

    def __init__(self, source: ImageSource, name: str, size: Size | None = None):
        self.source, self.name, self.size = source, name, size
        self.labels: np.ndarray | None = source.labels if len(source.class_names) > 1 else None
        self.transform = "as stored" if size is None else f"halving box + bicubic, centre crop {_said(size)} (Pillow)"
        self.bad: set[int] = set()
        say_what_was_found(source)
        self._check_budget(source.problems[-1:])

    def __len__(self) -> int:
        return len(self.source.labels) - len(self.bad)

    def __iter__(self) -> Iterator[Tensor]:
        return self.batches(0, len(self.source.labels))

    def fingerprint(self) -> str:
        """See `data.images.fingerprint`."""
        return fingerprint(self.source.names, self.source.labels)

    def batches(self, start: int, stop: int) -> Iterator[Tensor]:
        shape, numbers = None, range(start, min(stop, len(self.source.labels)))
        for images in prefetch(self._read, (numbers[i : i + BATCH] for i in range(0, len(numbers), BATCH))):
            for array in images:
                shape = shape or array.shape
                if array.shape != shape:
                    raise UserError(
                        f"{self.name}: images of different sizes ({shape[1]} x {shape[2]} and {array.shape[1]} x"
                        f" {array.shape[2]} pixels); expected one size: give an image size to crop them all to"
                    )
            if images:
                yield torch.from_numpy(np.stack(images))

    def _read(self, numbers: range) -> list[np.ndarray]:
        images = []
        for index in numbers:
            try:
                with reading(self.source.names[index]):
                    image = self.source.read(index)
            except BadImage as error:
                self._leave_out(index, error)
                continue
            images.append(to_array(image if self.size is None else center_crop(image, self.size)))
        return images

    def _leave_out(self, index: int, error: BadImage) -> None:
        if index not in self.bad:
            self.bad.add(index)
            warnings.warn(f"left out: {error}", stacklevel=2)
            self._check_budget([error])

    def _check_budget(self, last: list) -> None:
        count = len(self.bad) + len(self.source.problems)
        if count > BAD_SHARE * len(self.source.labels):
            raise UserError(
                f"{self.name}: {count} unreadable images or parts, more than 0.1 % of {len(self.source.labels)};"
                f" the last is {last[0]}"
            )


class NpzImages:
    """Array `arr_0` uint8 (N, H, W, 3) of an .npz file, and labels `arr_1` (N,) where it has them.

    Read piece by piece, whatever its size; object arrays (pickles) are refused unread. `size`: what H and W must be,
    None: anything. Raises UserError.
    """

    transform = "as stored"

    def __init__(self, path: str | Path, size: Size | None = None):
        self.path, self.name = Path(path), str(path)
        self.shape, dtype = npz_header(path, "arr_0")
        if dtype != np.uint8 or len(self.shape) != 4 or self.shape[3] != 3:
            hint = " (floating-point images: scale to 0..255 and round first)" if dtype.kind == "f" else ""
            raise UserError(f"{path}: arr_0 is {dtype} {self.shape}, expected uint8 (N, H, W, 3) in 0..255{hint}")
        if not 0 < math.prod(self.shape[1:]) <= MOST_BYTES or len(self) > MOST_IMAGES:
            most = f"expected at most {MOST_IMAGES:,} of at most {MOST_BYTES:,} bytes each, and some pixels"
            raise UserError(f"{path}: {len(self):,} images of {say_size(self.shape[1:3])} pixels, {most}")
        if size is not None and self.shape[1:3] != sides(size):
            found = say_size(self.shape[1:3])
            raise UserError(f"{path}: images of {found} pixels, expected {say_size(size)}")
        self.labels: np.ndarray | None = None
        if "arr_1" in npz_names(path):
            self.labels = npz_labels(path, "arr_1", len(self))

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return self.batches(0, len(self))

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path)

    def batches(self, start: int, stop: int) -> Iterator[Tensor]:
        size, stop = int(np.prod(self.shape[1:])), min(stop, len(self))
        with open_npz(self.path) as archive, archive.open("arr_0.npy") as file:
            read_header(file)
            file.seek(start * size, os.SEEK_CUR)
            batch = min(BATCH, max(1, MOST_BYTES // size))
            for first in range(start, stop, batch):
                count = min(batch, stop - first)
                data = bytearray(file.read(count * size))
                if len(data) < count * size:
                    raise UserError(
                        f"{self.path}: arr_0 is cut off at image {first + len(data) // size} of {len(self)}"
                    )
                yield torch.frombuffer(data, dtype=torch.uint8).view(count, *self.shape[1:]).permute(0, 3, 1, 2)


def _said(size: Size) -> str:
    """As figures are stored with it: a square by one number."""
    return str(size) if isinstance(size, int) else say_size(size)


def open_stream(path: str | Path, size: Size | None = None) -> ImageStream:
    """The images at `path`: an .npz of samples, what `data.images.open_source` opens, or "digits", scikit-learn's.

    Raises UserError for what is none of these, and for "digits" where something in the current folder is called so.
    """
    if means_digits(path):
        return StoredImages(Digits(), "digits", size)
    if Path(path).suffix == ".npz":
        return NpzImages(path, size)
    return StoredImages(open_source(path), str(path), size)
