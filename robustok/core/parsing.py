"""Reading what somebody else wrote: bounded before it is parsed, and one message that names the file where it is bad.

A file may be cut off, of another kind, or made to hurt: nested without end, or a kilobyte that stands for gigabytes.
Who reads one bounds its size, count and depth first, and lets `parsing` turn into a UserError whatever a parser raises.
"""

import errno
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from .errors import RunError, UserError
from .paths import regular_file

DAMAGED = "it is damaged, incomplete or another kind of file: make or fetch it again"
# The system's reasons that lie with the path that the user gave, or with a place that the file names in itself, and not
# with the machine.
_OF_THE_FILE = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EINVAL, errno.EOVERFLOW),
)
MOST_TABLE = 1 << 24  # bytes of an archive's table of names: more than 100,000
_SHOWN = 300  # characters of a parser's own message


@contextmanager
def parsing(path: str | Path, kind: str, cure: str = DAMAGED) -> Iterator[None]:
    """Raises UserError "PATH cannot be read as KIND (why); CURE" for whatever the body raises while it parses a file.

    Our own errors pass, and so do the system's that are no fault of the file (a disk that fails).
    """
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:  # a hostile file can make a parser raise anything
        if isinstance(error, OSError) and error.errno is not None:  # decompressors raise it without
            if error.errno not in _OF_THE_FILE:
                raise
            raise UserError(f"{path} cannot be read as {kind} ({error.strerror}); {cure}") from error
        raise UserError(f"{path} cannot be read as {kind} ({_why(error)}); {cure}") from error


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    said = " ".join(str(error).split())  # some are of several lines
    return f"{type(error).__name__}: {said[:_SHOWN]}".removesuffix(": ")


def read_bounded(path: str | Path, most: int, expected: str = "a file") -> bytes:
    """The content of a file of at most `most` bytes. Raises UserError for a larger one, and for what is no file, saying
    what was `expected`; OSError.
    """
    with regular_file(path, expected).open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UserError(f"{path} is larger than {most:,} bytes, the most that a file of its kind may have")
    return data


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """The archive in an open file. Raises ValueError for more than MOST_TABLE bytes of names, which would become some
    twenty times as many in memory; otherwise as zipfile.
    """
    guarded = _Guarded(file)
    archive = zipfile.ZipFile(cast(BinaryIO, guarded))
    guarded.most = None
    return archive


class _Guarded:
    """A file that refuses to be read in pieces of more than `most` bytes: zipfile takes the table of names in one."""

    most: int | None = MOST_TABLE

    def __init__(self, file: BinaryIO):
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if self.most is not None and size > self.most:
            raise ValueError(f"a table of {size:,} bytes of names, expected at most {self.most:,}")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def named_in(folder: Path, name: object, where: str | Path) -> Path:
    """The file or folder that a file `where` names in `folder`. Raises UserError unless it is a plain name."""
    if not isinstance(name, str) or name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
        raise UserError(f"{where} names {name!r:.100}; expected the name of something in {folder}, without a path")
    return folder / name
