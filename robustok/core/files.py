"""Files on disk: written whole or not at all, hashed, and JSON read with one clear message.

What is written goes to a temporary name beside its place first, `.NAME.RANDOM.tmp`, is synced, and is then renamed: a
reader, a crash or a full disk never leaves half of it under the final name. The random part keeps processes apart that
share a folder, also those of different machines and containers, whose process numbers may be the same.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from .errors import UserError
from .parsing import parsing, read_bounded

MOST_JSON = 1 << 25  # bytes; the manifest of a million classes by name fits
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp")  # what `_temporary_name` makes
_LONGEST = 255 - len("..0123456789abcdef.tmp")  # bytes of a name that such a one can hold


@contextmanager
def written_whole(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Gives a free path at which the body makes a file or a folder; it takes the place of `path` when the body ends.

    Folders above `path` are made. Where the body or the disk fails, what was there before stays, what the body wrote is
    removed and the error goes on. sync False: not forced to disk, for many small files that can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    try:
        yield temporary
        if sync:
            for inside in temporary.rglob("*"):  # nothing where it is a file
                _sync(inside)
            _sync(temporary)
        _move_into_place(temporary, path)
        if sync:
            _sync(path.parent)
    finally:
        _remove(temporary)  # is there only where something failed


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Puts `data` into the file `path`, whole or not at all; `sync` as in `written_whole`."""
    with written_whole(path, sync=sync) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Puts `value` into the JSON file `path`, indented by one space, whole or not at all."""
    write_bytes(path, json.dumps(value, indent=1).encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError when it is missing, not valid, or larger than MOST_JSON."""
    with parsing(path, "JSON"):
        return json.loads(read_bounded(path, MOST_JSON, "a JSON file"))


def read_record(path: Path) -> dict[str, Any]:
    """The content of a JSON file that holds one object. Raises UserError, as `read_json`, and for anything else."""
    record = read_json(path)
    if not isinstance(record, dict):
        raise UserError(f"{path} holds {str(record)[:60]!r}; expected one JSON object, {{name: value}}")
    return record


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(folder: Path, start: str = "") -> None:
    """Removes what killed processes left in `folder` of unfinished files and folders whose names begin with `start`.

    Only for a caller who knows that nobody is writing them at the moment.
    """
    for path in folder.glob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found and found[1].startswith(os.fsdecode(os.fsencode(start)[:_LONGEST])):
            _remove(path)


def _temporary_name(path: Path) -> Path:
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST])
    return path.with_name(f".{name}.{token_hex(8)}.tmp")


def _move_into_place(temporary: Path, path: Path) -> None:
    if not (temporary.is_dir() and path.is_dir()):
        temporary.replace(path)
        return
    old = _temporary_name(path)  # the system refuses to rename a folder onto one that holds something
    path.rename(old)
    temporary.rename(path)
    _remove(old)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
