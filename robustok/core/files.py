"""Files on disk: written whole or not at all, hashed, and JSON read with one clear message.

What is written goes to a temporary name beside its place first, `.NAME.RANDOM.tmp`, is synced, and is then renamed: a
reader, a crash or a full disk never leaves half of it under the final name. A folder that is replaced waits as
`.NAME.RANDOM.old` until the new one has its name. The random part keeps processes apart that share a folder, also those
of different machines and containers, whose process numbers may be the same.
"""

import errno
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

from .errors import RunError, UserError
from .parsing import parsing, read_bounded

MOST_JSON = 1 << 25  # bytes; the manifest of a million classes by name fits
MOST_DEPTH = 50  # lists and objects one in the other: whoever walks over them need not count
_UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{16}\.(tmp|old)")  # what `_beside` makes
_LONGEST = 255 - len("..0123456789abcdef.tmp")  # bytes of a name that such a one can hold
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, no quota left, a file larger than allowed


@contextmanager
def written_whole(path: Path, *, sync: bool = True, size: int | None = None) -> Iterator[Path]:
    """Gives a free path at which the body makes a file or a folder; it takes the place of `path` when the body ends.

    Folders above `path` are made. Where the body or the disk fails, what was there before stays, what the body wrote is
    removed and the error goes on; RunError where the disk is full. sync False: not forced to disk, for many small files
    that can be made again. size: bytes that the body writes, where that is known, to be named with that error.
    """
    temporary = _beside(path, "tmp")
    with explained_full_disk(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if sync:
                for inside in temporary.rglob("*"):  # nothing where it is a file
                    _sync(inside)
                _sync(temporary)
            _move_into_place(temporary, path, sync)
        finally:
            _remove(temporary)  # is there only where something failed


@contextmanager
def explained_full_disk(path: Path, size: int | None = None) -> Iterator[None]:
    """RunError, with the bytes that are free, in place of an OSError that says that the disk of `path` is full.

    size: bytes that the body needs, where that is known.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        needed = "" if size is None else f", {size:,} needed"
        raise RunError(
            f"{path}: no space left ({error.strerror}): {free_bytes(path):,} bytes free on its disk{needed}. What was "
            "there before stays: free some space and run the same command again"
        ) from error


def free_bytes(path: Path) -> int:
    """Bytes that this user can still write on the disk of `path`, or of the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Puts `data` into the file `path`, whole or not at all; `sync` as in `written_whole`."""
    with written_whole(path, sync=sync, size=len(data)) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Puts `value` into the JSON file `path`, indented by one space, whole or not at all."""
    write_bytes(path, json.dumps(value, indent=1).encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError when it is missing, not valid, larger than MOST_JSON, or nested
    deeper than MOST_DEPTH.
    """
    with parsing(path, "JSON"):
        value = json.loads(read_bounded(path, MOST_JSON, "a JSON file"))
        _refuse_deep(value, MOST_DEPTH)
    return value


def _refuse_deep(value: Any, left: int) -> None:
    if not left:
        raise RecursionError
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(item, dict | list):
            _refuse_deep(item, left - 1)


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
    """Removes what killed processes left in `folder` of unfinished files and folders whose names begin with `start`; a
    number at its end is meant whole, so that shard-00001 is not shard-000010.

    What one of them had moved out of the way of something new is put back where the new one never got its name. Only
    for a caller who knows that nobody is writing them at the moment.
    """
    whole = r"(?!\d)" if start[-1:].isdigit() else ""
    begins = re.compile(re.escape(os.fsdecode(os.fsencode(start)[:_LONGEST])) + whole)
    for path in folder.glob(".*"):
        found = _UNFINISHED.fullmatch(path.name)
        if found and begins.match(found[1]):
            _remove(path) if found[2] == "tmp" else _settle(path, path.with_name(found[1]))


def remove_whole(path: Path) -> None:
    """Removes a folder so that a crash in the middle leaves nothing under its name."""
    gone = _beside(path, "tmp")
    path.rename(gone)
    _remove(gone)


def _beside(path: Path, kind: str) -> Path:
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST])
    return path.with_name(f".{name}.{token_hex(8)}.{kind}")


def _move_into_place(temporary: Path, path: Path, sync: bool) -> None:
    if not (temporary.is_dir() and path.is_dir()):
        temporary.replace(path)
        if sync:
            _sync(path.parent)
        return
    old = _beside(path, "old")  # the system refuses to rename a folder onto one that holds something
    path.rename(old)
    try:
        temporary.rename(path)
        if sync:
            _sync(path.parent)
    finally:
        _settle(old, path)


def _settle(old: Path, path: Path) -> None:
    """Of what was moved out of the way: removed where something new has its name, else put back."""
    _remove(old) if path.exists() else old.rename(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
