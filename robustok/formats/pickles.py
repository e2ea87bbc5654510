"""Reading pickled checkpoints without running anything in them.

Only tensors, plain Python values, the argument namespace and the YAML scalars and sequences that the released training
script leaves in it are rebuilt. Classes of Lightning, which its checkpoints name beside the weights, and NumPy's
numbers are left out together with what they hold; theirs are never imported. Any other global in a pickle is refused by
name, and nothing can turn that off.

torch's own safe loader refuses lists of a class of their own, as those YAML sequences are, whatever is on its
allow-list. So zip checkpoints (torch 1.6 and newer) are unpickled here, with tensors memory-mapped; older files, which
hold tensors only, go through torch's loader.
"""

import mmap
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..core.errors import UserError
from .allowed import allowed_globals, left_out, plain


class UnsafeFileError(UserError):
    """A pickle names a class or function that is not allowed in a checkpoint; nothing of it was run."""


def read_pickled(path: Path) -> Any:
    """The object in a .pt, .pth, .bin or .ckpt file of torch. Tensors of zip files are memory-mapped, copy on write.

    Raises: UnsafeFileError naming what is not allowed; UserError for a file that is truncated or no checkpoint.
    """
    try:
        return plain(_read_zip(path) if zipfile.is_zipfile(path) else _read_old(path))
    except UserError:
        raise
    except Exception as error:  # a hostile or damaged pickle can make the unpickler raise anything
        raise UserError(
            f"{path} cannot be read as a torch checkpoint ({type(error).__name__}: {str(error)[:200]}); it is "
            "truncated, damaged or another kind of file: compare its size with the source's and fetch it again"
        ) from error


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        entries = {name.partition("/")[2]: info for name, info in archive.NameToInfo.items()}
        if "data.pkl" not in entries:
            raise UserError(f"{path} is a zip file without data.pkl: no torch checkpoint")
        if entries["data.pkl"].compress_type != zipfile.ZIP_STORED:  # torch never compresses; a bomb would
            raise UserError(f"{path} has a compressed data.pkl: no torch checkpoint")
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise UserError(f"{path} was written on a big-endian machine; expected little-endian tensors")
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        with archive.open(entries["data.pkl"]) as stream:
            return _Unpickler(stream, path, memory, entries).load()


def _read_old(path: Path) -> Any:
    """By torch's safe loader, which names what it does not know, one at a time."""
    stand_ins: dict[str, type] = {}
    while True:
        try:
            with torch.serialization.safe_globals([(made, name) for name, made in stand_ins.items()]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            refused = re.search(r"GLOBAL ([\w.]+)", str(error))
            if refused is None:
                raise ValueError(_reason(str(error))) from None
            name = refused[1] if "." in refused[1] else f"builtins.{refused[1]}"  # torch leaves that away
            stand_in = left_out(name)
            if stand_in is None or name in stand_ins:
                raise _unsafe(path, name) from None
            stand_ins[name] = stand_in


def _reason(message: str) -> str:
    """The reason in a message of torch's loader, without its advice to turn the safe one off."""
    found = re.search(r"WeightsUnpickler error:\s*(.+)", message)
    return found[1] if found else message.partition("\n")[0].partition(" In PyTorch 2.6")[0]


def _unsafe(path: Path, name: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"{path} refers to {name}, which may run code and is refused; expected only tensors, plain values, "
        "argparse.Namespace, ruamel.yaml scalars and sequences, and what is left out: NumPy's numbers, classes of "
        "Lightning"
    )


class _Unpickler(pickle.Unpickler):
    """Unpickler with an allow-list, as the pickle module's documentation describes it ("Restricting Globals")."""

    def __init__(self, stream: BinaryIO, path: Path, memory: mmap.mmap, entries: dict[str, zipfile.ZipInfo]):
        super().__init__(stream)
        self._path, self._memory, self._entries = path, memory, entries
        self._allowed = allowed_globals()

    def find_class(self, module: str, name: str) -> Any:
        found = self._allowed.get((module, name)) or left_out(f"{module}.{name}")
        if found is None:
            raise _unsafe(self._path, f"{module}.{name}")
        return found

    def persistent_load(self, pid: tuple) -> Tensor:
        """A storage as a one-dimensional tensor over the mapped file; pid is (kind, dtype, key, device, length)."""
        kind, dtype, key, _, length = pid
        entry = self._entries[f"data/{key}"]
        size = length * dtype.itemsize
        if kind != "storage" or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != size:
            raise ValueError(f"storage {key}: {entry.file_size} bytes stored, {size} expected")
        if length == 0:
            return torch.empty(0, dtype=dtype)
        # A local header is 30 bytes, the name and an extra field whose length only the header itself tells.
        name_size, extra_size = struct.unpack_from("<HH", self._memory, entry.header_offset + 26)
        start = entry.header_offset + 30 + name_size + extra_size
        return torch.frombuffer(self._memory, dtype=dtype, count=length, offset=start)
