"""Parquet files of images as a source, as Hugging Face's data sets come: row groups are read when they are needed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..core.errors import UserError
from .decode import BadImage, decode
from .listing import MAX_CLASSES, empty_classes
from .parquet_files import OpenFile, missing_shards
from .splits import Blocks

WINDOW = 256 << 20  # bytes of row groups that are shuffled together
LARGEST_GROUP = 1 << 30  # bytes of images in one row group: it is read whole


class Parquet:
    """A source of images (see `images.ImageSource`): Parquet files in the order given, rows in stored order.

    The images are a column `image` (or `img`, or the only one of its type) of encoded bytes, or of structs of `bytes`
    and `path`; the classes a column `label` of whole numbers, whose names stand in the schema's metadata as Hugging
    Face writes it, or of texts, which then are the names. Without one all images are one class. Rows whose label is
    missing or names no class are left out and named in `.problems`; an image without bytes is a bad one.

    A row group is read whole, and kept while others are read: `.blocks` says which images lie together, so that the
    order of training can take them together. Safe to read from several threads.
    Raises UserError where pyarrow is not installed, and for files that are damaged or hold other things.
    """

    kind = "Parquet files"

    def __init__(self, files: list[Path]) -> None:
        self.problems: list[str] = []
        self.ignored: list[str] = []
        self.notes: list[str] = missing_shards(files)
        self._files = [OpenFile(path) for path in files]
        for file in self._files:
            if file.columns != self._files[0].columns:
                raise UserError(f"{file.path}: other columns or classes than in {files[0].name}")
        self._groups = [(file, group) for file in self._files for group in range(len(file.groups))]
        sizes = [_size(file, group) for file, group in self._groups]
        self._index()
        at_once = max(1, int(WINDOW // max(np.mean(sizes), 1)))
        self.blocks = Blocks(self._places[:, 0], at_once)
        self._cache = _Cache(self._read_group, 2 * at_once)  # a batch may lie across the border of two windows

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB; raises BadImage naming file and row."""
        return decode(self.read_bytes(index), self._where(index))

    def read_bytes(self, index: int) -> bytes:
        """The bytes of image `index`; raises BadImage if they cannot be read, UserError if the file was replaced."""
        group, row = self._places[index].tolist()
        try:
            data = self._cache.get(group)[row].as_py()
        except UserError:
            raise
        except (OSError, ValueError) as error:  # pyarrow's own errors are of these
            raise BadImage(f"{self._where(index)}: its row group cannot be read ({error})") from error
        if data is None:
            raise BadImage(f"{self._where(index)}: has no bytes (a path to another file is not followed)")
        return data

    def _where(self, index: int) -> str:
        return str(self._files[0].path.parent / self.names[index])

    def _read_group(self, number: int) -> Any:
        file, group = self._groups[number]
        return file.images(group)

    def _index(self) -> None:
        """Sets labels, class_names, names and places: (row group, row in it) of each image."""
        labels = np.concatenate([file.labels() for file in self._files])
        counts = [file.groups[group] for file, group in self._groups]
        group = np.repeat(np.arange(len(counts)), counts)
        row = np.concatenate([np.arange(count) for count in counts] or [np.empty(0, np.int64)])
        names = [f"{file.path.name}:row {i}" for file in self._files for i in range(sum(file.groups))]
        labels, self.class_names = self._classes(labels)
        kept = labels >= 0
        self.problems += [f"{names[i]}: its label is missing or names no class" for i in np.flatnonzero(~kept).tolist()]
        if not kept.any():
            raise UserError(f"{self._files[0].path}: no row has a label that names a class")
        self.names = [names[i] for i in np.flatnonzero(kept).tolist()]
        self.labels, self._places = labels[kept], np.stack([group, row], 1)[kept]
        self.notes += empty_classes(self.labels, self.class_names)

    def _classes(self, stored: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Stored labels as int64 numbers of classes, -1 for none, and the names of the classes."""
        columns = self._files[0].columns
        if columns.label is None:
            return stored, ["images"]
        if stored.dtype == object:
            names = sorted(set(stored.tolist()) - {""})
            number = {name: label for label, name in enumerate(names)}
            return np.array([number.get(name, -1) for name in stored.tolist()], np.int64), names
        most = MAX_CLASSES if columns.class_names is None else len(columns.class_names)
        labels = np.where((stored >= 0) & (stored < most), stored, -1)
        return labels, columns.class_names or [str(label) for label in range(int(labels.max(initial=-1)) + 1)]


def _size(file: OpenFile, group: int) -> int:
    """Bytes of the images of a row group. Raises UserError for one too large to be read whole."""
    if (size := file.image_bytes(group)) > LARGEST_GROUP:
        raise UserError(
            f"{file.path}: row group {group} holds {size >> 20} MiB of images, more than the "
            f"{LARGEST_GROUP >> 20} MiB that are read at once; write the file again in smaller row groups "
            f"(pyarrow: write_table(..., row_group_size=1000))"
        )
    return size


class _Cache:
    """The results of `load` for the last `size` keys, each loaded by one thread while others that want it wait."""

    def __init__(self, load: Callable[[int], Any], size: int) -> None:
        self.load, self.size = load, size
        self.held: OrderedDict[int, Future] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: int) -> Any:
        with self.lock:
            found = self.held.get(key)
            mine = found is None
            if found is None:
                found = self.held[key] = Future()
            self.held.move_to_end(key)
            while len(self.held) > self.size:
                self.held.popitem(last=False)
        if mine:
            try:
                found.set_result(self.load(key))
            except BaseException as error:
                with self.lock:
                    self.held.pop(key, None)  # the next who asks tries again
                found.set_exception(error)
        return found.result()
