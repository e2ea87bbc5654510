"""Reading pickled checkpoints without running anything in them.

Only tensors, plain Python values, the argument namespace and the YAML scalars and sequences that the released training
script leaves in it are rebuilt; any other global in a pickle is refused by name, and nothing can turn that off.

torch's own safe loader refuses lists of a class of their own, as those YAML sequences are, whatever is on its
allow-list. So zip checkpoints (torch 1.6 and newer) are unpickled here, with tensors memory-mapped; older files, which
hold tensors only, go through torch's loader.
"""

import argparse
import mmap
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class UnsafeFileError(UserError):
    """A pickle names a class or function that is not allowed in a checkpoint; nothing of it was run."""


def read_pickled(path: Path) -> Any:
    """The object in a .pt, .pth or .bin file of torch. Tensors of zip files are memory-mapped, copy on write.

    Raises: UnsafeFileError naming what is not allowed; UserError for a file that is truncated or no checkpoint.
    """
    try:
        if zipfile.is_zipfile(path):
            return _plain(_read_zip(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a hostile or damaged pickle can make the unpickler raise anything
        forbidden = re.search(r"GLOBAL ([\w.]+)", str(error))
        if forbidden:
            name = forbidden[1] if "." in forbidden[1] else f"builtins.{forbidden[1]}"  # torch leaves that away
            raise _unsafe(path, name) from None
        raise UserError(
            f"{path} cannot be read as a torch checkpoint ({type(error).__name__}: {str(error)[:200]}); it is "
            "truncated, damaged or another kind of file: compare its size with the source's and fetch it again"
        ) from error


def _unsafe(path: Path, name: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"{path} refers to {name}, which may run code and is refused; expected only tensors, plain values, "
        "argparse.Namespace and ruamel.yaml scalars and sequences"
    )


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


class _Unpickler(pickle.Unpickler):
    """Unpickler with an allow-list, as the pickle module's documentation describes it ("Restricting Globals").

    What is allowed are classes and functions made for this one file, so that nothing a pickle does to them lasts.
    """

    def __init__(self, stream, path: Path, memory: mmap.mmap, entries: dict[str, zipfile.ZipInfo]):
        super().__init__(stream)
        self._path, self._memory, self._entries = path, memory, entries
        self._allowed = _allowed_globals()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise _unsafe(self._path, f"{module}.{name}")
        return self._allowed[module, name]

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


def _allowed_globals() -> dict[tuple[str, str], Any]:
    def rebuild_tensor(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
        return storage.as_strided(size, stride, offset)  # torch checks the bounds

    def rebuild_parameter(data, requires_grad=False, hooks=None):
        return data

    def ordered_dict(items=()):
        return _OrderedDict(items)

    class _OrderedDict(dict):  # state dicts carry an attribute, which a plain dict cannot
        pass

    allowed = {("torch", name): dtype for name, dtype in _DTYPES.items()}
    allowed |= {
        ("collections", "OrderedDict"): ordered_dict,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
        ("argparse", "Namespace"): type("Namespace", (argparse.Namespace,), {}),
        ("ruamel.yaml.scalarfloat", "ScalarFloat"): type("ScalarFloat", (float,), {}),
        ("ruamel.yaml.scalarint", "ScalarInt"): type("ScalarInt", (int,), {}),
        ("ruamel.yaml.scalarbool", "ScalarBoolean"): type("ScalarBoolean", (int,), {}),
        ("ruamel.yaml.comments", "CommentedSeq"): type("CommentedSeq", (list,), {}),
        ("ruamel.yaml.comments", "LineCol"): type("LineCol", (), {}),  # where a sequence stood in its YAML file,
        ("ruamel.yaml.comments", "Format"): type("Format", (), {}),  # and how it was written
    }
    return allowed


def _plain(value: Any) -> Any:
    """Replace the classes made for one file by the plain types that they stand for."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, argparse.Namespace):
        return argparse.Namespace(**_plain(vars(value)))
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, int) and type(value) is not bool:
        return bool(value) if type(value).__name__ == "ScalarBoolean" else int(value)
    return float(value) if isinstance(value, float) else value
