"""Tar shards as a source of images: headers are read once, then images by their offset; nothing is unpacked."""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from ..core.errors import UserError
from .decode import BadImage, decode, image_suffixes

_MAX_LABEL_BYTES = 32  # a .cls member holds one whole number


class _Member(NamedTuple):
    shard: int
    name: str
    offset: int  # of the data, in bytes
    size: int


class TarShards:
    """A source of images (see `images.ImageSource`): uncompressed tar files, in sorted order, members in stored order.

    The label of an image comes from the member with the same key (its name up to the first dot of the last part) and
    the suffix .cls, a whole number, as in WebDataset; where no shard has such members, from the member's folder,
    folders in sorted order being the classes. Members that are not regular files (links, devices, sparse files), that
    have unsafe names, or repeat a key, and what follows a damaged place are left out and named in `.problems`.
    """

    kind = "tar shards"

    def __init__(self, shards: list[Path]) -> None:
        self.shards = shards
        self.problems: list[str] = []
        self.ignored: list[str] = []
        self._stamps = [_stamp(path) for path in shards]
        images: dict[tuple[int, str], _Member] = {}
        classes: dict[tuple[int, str], _Member] = {}
        for shard in range(len(shards)):
            for member in self._scan(shard):
                self._sort_in(member, images, classes)
        if not images:
            raise UserError(f"data.root: no image in {shards[0]}" + (" and the other shards" if shards[1:] else ""))
        labels, self.class_names = self._from_cls(images, classes) if classes else self._from_folders(images)
        kept = [member for key, member in images.items() if key in labels]
        self.labels = np.array([labels[key] for key in images if key in labels], dtype=np.int64)
        self.names = [f"{shards[member.shard].name}:{member.name}" for member in kept]
        self._places = np.array([(m.shard, m.offset, m.size) for m in kept], dtype=np.int64)

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB; raises BadImage naming shard, member and offset."""
        return decode(self.read_bytes(index), self._where(index))

    def read_bytes(self, index: int) -> bytes:
        """The member of image `index`; raises BadImage if it cannot be read, UserError if its shard was replaced."""
        shard, offset, size = self._places[index].tolist()
        if _stamp(self.shards[shard]) != self._stamps[shard]:
            raise UserError(f"{self.shards[shard]} has changed since it was indexed; start again")
        return self._read_at(shard, offset, size, self._where(index))

    def _where(self, index: int) -> str:
        shard, offset, _ = self._places[index].tolist()
        return f"{self.shards[shard].parent / self.names[index]} (byte {offset})"

    def _read_at(self, shard: int, offset: int, size: int, where: str) -> bytes:
        try:
            with open(self.shards[shard], "rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise BadImage(f"{where}: cannot be read ({error.strerror})") from error

    def _scan(self, shard: int) -> Iterator[_Member]:
        """The regular members of a shard, from its headers; what is wrong with the others goes to `.problems`."""
        path = self.shards[shard]
        with open(path, "rb") as file, _open_tar(file, path) as tar:
            try:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # tarfile keeps every header, gigabytes for a large data set
                    if problem := _problem(info, self._stamps[shard][0]):
                        self.problems.append(f"{path}: member {info.name!r}: {problem}")
                    elif info.isreg():
                        yield _Member(shard, info.name.removeprefix("./"), info.offset_data, info.size)
            except tarfile.ReadError as error:
                self.problems.append(f"{path}: cut off at byte {tar.offset} ({error}); the rest is not read")
                return
            file.seek(tar.offset)  # tarfile takes a damaged header for the end: a true end is zeros or nothing
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                self.problems.append(f"{path}: damaged header at byte {tar.offset}; the rest is not read")

    def _sort_in(self, member: _Member, images: dict, classes: dict) -> None:
        path = PurePosixPath(member.name)
        if path.name.startswith("."):
            return
        table = classes if path.suffix == ".cls" else images if path.suffix.lower() in image_suffixes() else None
        if table is None:
            self.ignored.append(f"{self.shards[member.shard].name}:{member.name}")
            return
        key = (member.shard, str(path.with_name(path.name.split(".")[0])))
        if key in table:
            self.problems.append(
                f"{self.shards[member.shard]}: member {member.name!r}: a second {path.suffix} of its key"
            )
        else:
            table[key] = member

    def _from_cls(self, images: dict, classes: dict) -> tuple[dict, list[str]]:
        labels = {}
        for key in sorted(images.keys() | classes.keys()):
            where = f"{self.shards[key[0]]}: key {key[1]!r}"
            if key not in classes or key not in images:
                self.problems.append(f"{where}: has no {'.cls member' if key in images else 'image'}")
                continue
            member = classes[key]
            text = self._read_at(member.shard, member.offset, min(member.size, _MAX_LABEL_BYTES), where).strip()
            if text.isdigit():
                labels[key] = int(text)
            else:
                self.problems.append(f"{where}: its .cls member holds {text!r}, expected a whole number from 0")
        if not labels:
            raise UserError(f"{self.shards[0].parent}: no image has a class: {self.problems[0]}")
        return labels, [str(label) for label in range(max(labels.values()) + 1)]

    def _from_folders(self, images: dict) -> tuple[dict, list[str]]:
        folders = {key: str(PurePosixPath(member.name).parent) for key, member in images.items()}
        names = sorted(set(folders.values()))
        if "." in names and len(names) > 1:
            stray = next(member.name for key, member in images.items() if folders[key] == ".")
            raise UserError(
                f"{self.shards[0].parent}: member {stray!r} lies in no folder while others do: no class for it"
            )
        number = {name: label for label, name in enumerate(names)}
        return {key: number[folder] for key, folder in folders.items()}, names if names != ["."] else ["images"]


def _open_tar(file: BinaryIO, path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:")
    except tarfile.ReadError as error:
        raise UserError(f"{path}: not an uncompressed tar file ({error}); unpack or replace it") from error


def _problem(info: tarfile.TarInfo, shard_size: int) -> str | None:
    """Why a member must be left out, or None. Folders are no members of interest and no problem."""
    if info.isdir():
        return None
    if not info.isreg() or info.issparse():
        return "not a regular file (link, device or sparse)"
    if info.name.startswith("/") or ".." in PurePosixPath(info.name).parts:
        return "its name leaves the archive"
    if info.offset_data + info.size > shard_size:
        return "cut off by the end of the shard"
    return None


def _stamp(path: Path) -> tuple[int, int]:
    """(size, time of change in ns): by which a shard that was replaced is noticed."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return status.st_size, status.st_mtime_ns
