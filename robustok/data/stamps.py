"""Files that are read again and again by place must stay as they were when their index was made."""

from pathlib import Path

from ..core.errors import UserError
from ..core.paths import regular_file

Stamp = tuple[int, int]  # size in bytes, time of change in ns


def stamp_of(path: Path, expected: str) -> Stamp:
    """By which a file that was replaced is noticed. Raises UserError, saying what was `expected`, for no such file."""
    status = regular_file(path, expected).stat()
    return status.st_size, status.st_mtime_ns


def refuse_changed(path: Path, stamp: Stamp, expected: str) -> None:
    """Raises UserError for a file that is not the one that was indexed."""
    if stamp_of(path, expected) != stamp:
        raise UserError(f"{path} has changed since it was indexed; start again")
