"""What is read of a tar file to find its members: headers alone, whatever is in them."""

import io
import tarfile
from pathlib import Path

from ..core.errors import UserError

_PACKERS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\3\4": "zip"}
_MAX_HEADER = 1 << 20  # bytes that a member may have before its data: names, comments
_MAX_NAME = 4096  # characters
_MAX_PADDING = 1 << 26  # bytes after the end that are looked at
SHOWN = 200  # characters of a name


class Headers(io.FileIO):
    """A shard, of which headers alone are read."""

    def read(self, size: int = -1) -> bytes:
        """As the file that it is. Raises ValueError for a header that would fill memory."""
        if not 0 <= size <= _MAX_HEADER:
            raise ValueError(f"{size:,} bytes, expected at most {_MAX_HEADER:,}")
        return super().read(size)

    def after_end(self, end: int) -> str | None:
        """What is wrong where tarfile found the end: it takes a damaged header for that, and stops at the first of
        several archives. A true end is zeros or nothing.
        """
        self.seek(end)
        if self.read(tarfile.BLOCKSIZE).strip(b"\0"):
            return "damaged header"
        while self.tell() - end < _MAX_PADDING and (block := self.read(_MAX_HEADER)):
            if block.strip(b"\0"):
                return "more data after the end (of several archives, give each its own file)"
        return None


def open_tar(file: Headers, path: Path) -> tarfile.TarFile:
    """The archive in `file`, whose path is said where it is none: raises UserError."""
    try:
        return tarfile.open(fileobj=file, mode="r:")
    except (tarfile.ReadError, ValueError, OverflowError, RecursionError) as error:
        file.seek(0)
        start = file.read(8)
        packer = next((name for sign, name in _PACKERS.items() if start.startswith(sign)), None)
        why = f"it is packed with {packer}" if packer else error
        raise UserError(f"{path}: not an uncompressed tar file ({why}); unpack or replace it") from error


def member_problem(info: tarfile.TarInfo, shard_size: int) -> str | None:
    """Why a member must be left out, or None. Folders are no members of interest and no problem."""
    if info.isdir():
        return None
    if not info.isreg() or info.issparse():
        return "not a regular file (link, device or sparse)"
    if info.size < 0:
        return f"its size is {info.size}"
    if len(info.name) > _MAX_NAME:
        return f"its name has {len(info.name)} characters, expected at most {_MAX_NAME}"
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return "its name leaves the archive"
    if info.offset_data + info.size > shard_size:
        return "cut off by the end of the shard"
    return None
