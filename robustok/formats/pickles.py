"""Reading pickled checkpoints without running anything in them.

Only tensors, plain Python values, the argument namespace and the YAML scalars and sequences that the released training
script leaves in it are rebuilt. Classes of Lightning, which its checkpoints name beside the weights, and NumPy's
numbers are left out together with what they hold; theirs are never imported. Any other global in a pickle is refused by
name, and nothing can turn that off. What a pickle costs is known before it is unpickled (`pickle_cost`).

torch's own safe loader refuses lists of a class of their own, as those YAML sequences are, whatever is on its
allow-list. So both of its layouts are unpickled here, with tensors memory-mapped: a zip file (torch 1.6 and newer), and
five pickles with the bytes of the storages after them.
"""

import io
import mmap
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.parsing import open_zip, parsing
from ..core.paths import regular_file
from .allowed import allowed_globals, left_out, plain
from .pickle_cost import MOST_BYTES, refuse_costly

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of an old file
DAMAGED = "it is truncated, damaged or another kind of file: compare its size with the source's and fetch it again"

Storage = Callable[[str, torch.dtype, int], Tensor]  # (key, dtype, elements) -> all of it, one-dimensional


class UnsafeFileError(UserError):
    """A pickle names a class or function that is not allowed in a checkpoint; nothing of it was run."""


def read_pickled(path: Path) -> Any:
    """The object in a .pt, .pth, .bin or .ckpt file of torch. Tensors are memory-mapped, copy on write.

    Raises: UnsafeFileError naming what is not allowed; UserError for a file that is truncated or no checkpoint.
    """
    with parsing(path, "a torch checkpoint", DAMAGED), regular_file(path).open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if zipfile.is_zipfile(file):
            return plain(_read_zip(path, open_zip(file), memory), str(path))
        if memory[:2] == b"PK":
            raise ValueError("the end of a zip file is missing")
        if memory[257:262] == b"ustar":
            raise UserError(f"{path} is a tar archive, as torch wrote until 2017: save it again with a newer torch")
        return plain(_read_old(path, memory), str(path))


def _read_zip(path: Path, archive: zipfile.ZipFile, memory: mmap.mmap) -> Any:
    entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "data.pkl" not in entries:
        raise UserError(f"{path} is a zip file without data.pkl: no torch checkpoint")
    if len(entries) < len(archive.infolist()):
        raise UserError(f"{path} is a zip file with two records of one name: no torch checkpoint")
    for name, entry in entries.items():
        if entry.compress_type != zipfile.ZIP_STORED:  # torch never compresses; a bomb would
            raise UserError(f"{path} has a compressed {name}: no torch checkpoint")
    order = entries.get("byteorder")
    if order is not None and _record(memory, order) != b"little":
        raise UserError(f"{path} was written on a big-endian machine; expected little-endian tensors")

    def storage(key: str, dtype: torch.dtype, length: int) -> Tensor:
        entry = entries[f"data/{key}"]
        if entry.file_size != length * dtype.itemsize:
            raise ValueError(f"storage {key}: {entry.file_size} bytes stored, {length * dtype.itemsize} expected")
        return _mapped(memory, _start(memory, entry), dtype, length)

    data = _record(memory, entries["data.pkl"])
    refuse_costly(io.BytesIO(data), str(path))
    return _Unpickler(data, path, storage).load()


def _start(memory: mmap.mmap, entry: zipfile.ZipInfo) -> int:
    """Where a record's bytes begin: behind 30 bytes, the name and an extra field whose length only they tell."""
    name_size, extra_size = struct.unpack_from("<HH", memory, entry.header_offset + 26)
    return entry.header_offset + 30 + name_size + extra_size


def _record(memory: mmap.mmap, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of a small record."""
    if entry.file_size > MOST_BYTES:
        raise ValueError(f"{entry.filename} has {entry.file_size:,} bytes, expected at most {MOST_BYTES:,}")
    start = _start(memory, entry)
    return memory[start : start + entry.file_size]


def _read_old(path: Path, memory: mmap.mmap) -> Any:
    """Five pickles (magic number, protocol, about the machine, the object, keys of its storages), then each storage:
    the number of its elements, and their bytes.
    """
    for expected in (MAGIC, PROTOCOL):
        if _Unpickler(_next_pickle(path, memory), path, _no_storage).load() != expected:
            raise ValueError("a pickle that torch.save did not write")
    if not _Unpickler(_next_pickle(path, memory), path, _no_storage).load()["little_endian"]:
        raise UserError(f"{path} was written on a big-endian machine; expected little-endian tensors")
    data, keys = _next_pickle(path, memory), _next_pickle(path, memory)
    sizes: dict[str, tuple[torch.dtype, int]] = {}
    starts: dict[str, int] = {}

    def measured(key: str, dtype: torch.dtype, length: int) -> Tensor:
        sizes[key] = dtype, length
        return torch.empty(length, dtype=dtype, device="meta")

    _Unpickler(data, path, measured).load()
    for key in _Unpickler(keys, path, _no_storage).load():
        dtype, length = sizes[key]
        (stored,) = struct.unpack("<q", memory.read(8))
        if stored != length:
            raise ValueError(f"storage {key}: {stored} elements stored, {length} expected")
        starts[key] = memory.tell()
        memory.seek(length * dtype.itemsize, io.SEEK_CUR)
    return _Unpickler(data, path, lambda key, dtype, length: _mapped(memory, starts[key], dtype, length)).load()


def _next_pickle(path: Path, memory: mmap.mmap) -> bytes:
    """The bytes of the pickle that begins where the file is, which is then at its end."""
    start = memory.tell()
    pickled = io.BytesIO(memory[start : start + MOST_BYTES])
    refuse_costly(pickled, str(path))
    memory.seek(start + pickled.tell())
    return pickled.getvalue()[: pickled.tell()]


def _mapped(memory: mmap.mmap, start: int, dtype: torch.dtype, length: int) -> Tensor:
    if length == 0:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=length, offset=start)


def _no_storage(key: str, dtype: torch.dtype, length: int) -> Tensor:
    raise ValueError(f"storage {key} before the object that it belongs to")


class _Unpickler(pickle.Unpickler):
    """Unpickler with an allow-list, as the pickle module's documentation describes it ("Restricting Globals")."""

    def __init__(self, data: bytes, path: Path, storage: Storage):
        super().__init__(io.BytesIO(data))
        self._path, self._storage, self._allowed = path, storage, allowed_globals()

    def find_class(self, module: str, name: str) -> Any:
        found = self._allowed.get((module, name)) or left_out(f"{module}.{name}")
        if found is None:
            raise UnsafeFileError(
                f"{self._path} refers to {module}.{name}, which may run code and is refused; expected only tensors, "
                "plain values, argparse.Namespace, ruamel.yaml scalars and sequences, and what is left out: NumPy's "
                "numbers, classes of Lightning"
            )
        return found

    def persistent_load(self, pid: tuple) -> Tensor:
        """A storage; pid is (kind, dtype, key, device, elements[, (key, offset, elements) of a view of it])."""
        kind, dtype, key, _, length, *view = pid
        if kind != "storage":
            raise ValueError(f"{kind} is no storage")
        whole = self._storage(key, dtype, length)
        if not any(view):
            return whole
        _, offset, size = view[0]
        return whole[offset : offset + size]
