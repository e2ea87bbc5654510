"""numpy's archives of arrays, as other people make them: looked at before they are read, and named where damaged."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..core.errors import UserError
from ..core.paths import regular_file
from ..data.listing import MAX_CLASSES


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turns whatever zipfile, zlib and numpy raise on a damaged file into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system; decompressors raise it without
            raise
        raise UserError(
            f"{path}: not an .npz file that can be read ({type(error).__name__}: {error}); it is damaged, incomplete, "
            f"or of a kind that numpy.savez does not write: make or download it again"
        ) from error


def npz_names(path: str | Path) -> list[str]:
    """Names of the arrays in an .npz file. Raises UserError where it is no such file."""
    with reading(path), zipfile.ZipFile(regular_file(path, "an .npz file")) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def npz_header(path: str | Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of one array of an .npz file, read without its data. Raises UserError."""
    if name not in (names := npz_names(path)):
        raise UserError(f"{path}: no array {name!r}, found {names}; samples are expected as {name!r}")
    with reading(path), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        shape, fortran, dtype = read_header(file)
    if dtype.hasobject or fortran:
        kind = "holds Python objects, which could run code when read" if dtype.hasobject else "is in Fortran order"
        raise UserError(f"{path}: {name} {kind}: refused; save a plain uint8 array with numpy.savez")
    return shape, dtype


def npz_labels(path: str | Path, name: str, count: int) -> np.ndarray:
    """Array `name` of an .npz file as the classes of `count` images, int64 (count,). Raises UserError."""
    shape, dtype = npz_header(path, name)
    if shape != (count,) or dtype.kind not in "iu":
        raise UserError(
            f"{path}: {name} is {dtype} {shape}, expected the class of each image, whole numbers ({count},); "
            f"correct it or leave it out"
        )
    with reading(path), np.load(path, allow_pickle=False) as file:
        labels = file[name]
    if count and not 0 <= labels.min() <= labels.max() < MAX_CLASSES:
        raise UserError(
            f"{path}: {name} holds {labels.min()}..{labels.max()}, expected numbers of classes, 0..{MAX_CLASSES - 1}; "
            f"correct it or leave it out"
        )
    return labels.astype(np.int64)


def read_header(file) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran order, dtype) of an open .npy file, which is left where its data begins."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)
