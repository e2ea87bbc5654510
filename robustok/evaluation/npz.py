"""numpy's archives of arrays, as other people make them: looked at before they are read, and named where damaged."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..core.errors import UserError
from ..core.parsing import open_zip, parsing
from ..core.paths import regular_file
from ..core.text import some_of
from ..data.listing import MAX_CLASSES

CURE = "it is damaged, incomplete, or of a kind that numpy.savez does not write: make or download it again"
MOST_BYTES = 1 << 29  # of an array that is read whole: the covariance of 8192 features
MOST_IMAGES = 10_000_000  # whose classes are read whole


@contextmanager
def open_npz(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """The archive, while the body reads it. Raises UserError for whatever zipfile, zlib and numpy raise, too."""
    with (
        parsing(path, "an .npz file", CURE),
        regular_file(path, "an .npz file").open("rb") as file,
        open_zip(file) as archive,
    ):
        yield archive


def npz_names(path: str | Path) -> list[str]:
    """Names of the arrays in an .npz file. Raises UserError where it is no such file."""
    with open_npz(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def npz_header(path: str | Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of one array of plain values in C order of an .npz file, read without its data.

    Raises UserError for others, and where the file has not as many bytes of it as they take.
    """
    with open_npz(path) as archive:
        shape, fortran, dtype = _header(archive, path, name)
    if fortran:
        raise UserError(f"{path}: {name} is in Fortran order: refused; save a plain array with numpy.savez")
    return shape, dtype


def npz_array(path: str | Path, name: str) -> np.ndarray:
    """One array of an .npz file in this machine's byte order. Raises UserError where it has more than MOST_BYTES."""
    with open_npz(path) as archive:
        shape, _, dtype = _header(archive, path, name)
        if (size := math.prod(shape) * dtype.itemsize) > MOST_BYTES:
            raise UserError(f"{path}: {name} is {dtype} {shape}, {size:,} bytes; expected at most {MOST_BYTES:,}")
        with archive.open(f"{name}.npy") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    return array.astype(dtype.newbyteorder("="), copy=False)


def npz_labels(path: str | Path, name: str, count: int) -> np.ndarray:
    """Array `name` of an .npz file as the classes of `count` images, int64 (count,). Raises UserError."""
    shape, dtype = npz_header(path, name)
    if shape != (count,) or dtype.kind not in "iu":
        raise UserError(
            f"{path}: {name} is {dtype} {shape}, expected the class of each image, whole numbers ({count},); "
            f"correct it or leave it out"
        )
    labels = npz_array(path, name)
    if count and not 0 <= labels.min() <= labels.max() < MAX_CLASSES:
        raise UserError(
            f"{path}: {name} holds {labels.min()}..{labels.max()}, expected numbers of classes, 0..{MAX_CLASSES - 1}; "
            f"correct it or leave it out"
        )
    return labels.astype(np.int64)


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran order, dtype) of an open .npy file, which is left where its data begins."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _header(archive: zipfile.ZipFile, path: str | Path, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    names = [entry.removesuffix(".npy") for entry in archive.namelist()]
    if names.count(name) != 1:
        raise UserError(f"{path}: no array {name!r}, found {some_of(names)}; samples are expected as {name!r}")
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as file:
        shape, fortran, dtype = read_header(file)
        data = entry.file_size - file.tell()
    if dtype.hasobject:
        raise UserError(
            f"{path}: {name} holds Python objects, which could run code when read: refused; save a plain array with "
            "numpy.savez"
        )
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != data:
        found = f"{name} is said to be {dtype} {shape}, but has {data:,} bytes"
        raise UserError(f"{path}: {found}: {CURE}")
    return shape, fortran, dtype
