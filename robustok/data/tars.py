"""Tar shards as a source of images: headers are read once, then images by their offset; nothing is unpacked."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..core.errors import UserError
from .decode import BadImage, check_bytes, decode
from .listing import (
    MAX_CLASSES,
    empty_classes,
    is_image,
    is_junk,
    look_like_splits,
    notes_on,
    refuse_same_but_case,
    say_suffixes,
)
from .stamps import refuse_changed, stamp_of
from .tar_headers import SHOWN, Headers, member_problem, open_tar

_LABEL_BYTES = {".cls": 32, ".json": 1 << 16}  # suffixes of members with labels, the first comes first: most bytes


class _Member(NamedTuple):
    shard: int
    name: str
    offset: int  # of the data, in bytes
    size: int


Key = tuple[int, str]  # shard, and the name of a member or of a sample in it


class TarShards:
    """A source of images (see `images.ImageSource`): uncompressed tar files, in sorted order, members in stored order.

    Where shards have members of the suffix .cls, as in WebDataset, KEY.cls holds the label of the image KEY.jpg, a
    whole number; where they have none, but KEY.json holds an object with `label`, that is it, a number or a text; an
    image KEY.seg.png beside it is another part of the sample and is ignored. Where no shard has either, shards are a
    folder that was packed: every image is taken, its class is its folder, and folders in sorted order are the classes.
    Members that are not regular files (links, devices, sparse files), that have unsafe names, or that repeat a name,
    samples without image or label, and what follows a damaged place are left out and named in `.problems`.

    The index is made anew at every start (about 25 s for a million members) and written nowhere.
    """

    kind = "tar shards"

    def __init__(self, shards: list[Path]) -> None:
        self.shards = shards
        self.problems: list[str] = []
        self.ignored: list[str] = []
        self._stamps = [stamp_of(path, "a tar shard") for path in shards]
        images: dict[Key, _Member] = {}  # by name
        carriers: dict[str, dict[Key, _Member]] = {suffix: {} for suffix in _LABEL_BYTES}  # by name without suffix
        for shard in range(len(shards)):
            for member in self._scan(shard):
                self._sort_in(member, images, carriers)
        if not images:
            where = f"{shards[0]}" + (" and the other shards" if shards[1:] else "")
            found = f" (members of other types: {say_suffixes(self.ignored)})" if self.ignored else ""
            raise UserError(f"no image in {where}{found}")
        suffix = self._suffix_of_labels(carriers)
        if suffix is None:
            labels, self.class_names = self._from_folders(images)
        else:
            labels, self.class_names = self._from_members(images, carriers[suffix], suffix)
        kept = [member for key, member in images.items() if key in labels]
        self.labels = np.array([labels[key] for key in images if key in labels], dtype=np.int64)
        self.names = [f"{shards[member.shard].name}:{member.name}" for member in kept]
        self._places = np.array([(m.shard, m.offset, m.size) for m in kept], dtype=np.int64)
        self.notes = notes_on([] if suffix else self.names, self.ignored)
        self.notes += empty_classes(self.labels, self.class_names)

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB; raises BadImage naming shard, member and offset."""
        return decode(self.read_bytes(index), self._where(index))

    def read_bytes(self, index: int) -> bytes:
        """The member of image `index`; raises BadImage if it cannot be read, UserError if its shard was replaced."""
        shard, offset, size = self._places[index].tolist()
        check_bytes(size, self._where(index))
        refuse_changed(self.shards[shard], self._stamps[shard], "a tar shard")
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
        with Headers(path) as file, open_tar(file, path) as tar:
            try:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # tarfile keeps every header, gigabytes for a large data set
                    if problem := member_problem(info, self._stamps[shard][0]):
                        self.problems.append(f"{path}: member {info.name[:SHOWN]!r}: {problem}")
                    elif info.isreg():
                        yield _Member(shard, info.name.removeprefix("./"), info.offset_data, info.size)
                    if tar.offset <= info.offset:
                        raise ValueError("its size leads back")
            except tarfile.ReadError as error:
                self.problems.append(f"{path}: cut off at byte {tar.offset} ({error}); the rest is not read")
                return
            except (ValueError, OverflowError, RecursionError) as error:  # what odd numbers in a header lead tarfile to
                why = "too many headers of one member" if isinstance(error, RecursionError) else error
                self.problems.append(f"{path}: damaged header at byte {tar.offset} ({why}); the rest is not read")
                return
            if (problem := file.after_end(tar.offset)) is not None:
                self.problems.append(f"{path}: {problem} at byte {tar.offset}; the rest is not read")

    def _sort_in(self, member: _Member, images: dict[Key, _Member], carriers: dict[str, dict[Key, _Member]]) -> None:
        if any(map(is_junk, member.name.split("/"))):
            return
        start, dot, end = member.name.rpartition(".")
        of_label = carriers.get(dot + end)
        if of_label is None and not is_image(member.name):
            self.ignored.append(f"{self.shards[member.shard].name}:{member.name}")
            return
        table, name = (images, member.name) if of_label is None else (of_label, start)
        if (member.shard, name) in table:
            self.problems.append(f"{self.shards[member.shard]}: member {member.name!r}: a second one of its name")
        else:
            table[member.shard, name] = member

    def _suffix_of_labels(self, carriers: dict[str, dict[Key, _Member]]) -> str | None:
        """That of the members that labels are taken from; None: from folders. Those of the others are ignored."""
        of_json = next(iter(carriers[".json"].values()), None)
        chosen = ".cls" if carriers[".cls"] else None
        if chosen is None and of_json is not None and self._label_in(of_json, ".json")[0] is not None:
            chosen = ".json"
        for suffix in carriers.keys() - {chosen}:
            self.ignored += [f"{self.shards[m.shard].name}:{m.name}" for m in carriers[suffix].values()]
        return chosen

    def _label_in(self, member: _Member, suffix: str) -> tuple[int | str | None, bytes]:
        """The label that a member holds, None where it holds none, and the beginning of its text."""
        where = f"{self.shards[member.shard]}: member {member.name!r}"
        text = self._read_at(member.shard, member.offset, min(member.size, _LABEL_BYTES[suffix]), where).strip()
        if suffix == ".cls":
            label = int(text) if text.isdigit() else None
        else:
            try:
                found = json.loads(text)
            except (ValueError, RecursionError):
                found = None
            label = found.get("label") if isinstance(found, dict) else None
        fits = isinstance(label, str) or (type(label) is int and 0 <= label < MAX_CLASSES)
        return (label if fits else None), text[:40]

    def _from_members(
        self, images: dict[Key, _Member], classes: dict[Key, _Member], suffix: str
    ) -> tuple[dict[Key, int], list[str]]:
        """Labels by the name of the image, and the names of the classes; texts are names in sorted order."""
        samples: dict[Key, list[str]] = {key: [] for key in classes}
        for shard, name in images:
            samples.setdefault((shard, _sample(shard, name, classes)), []).append(name)
        labels: dict[Key, int | str] = {}
        for key in sorted(samples):
            where = f"{self.shards[key[0]]}: key {key[1]!r}"
            if key not in classes:
                self.problems.append(f"{where}: has no {suffix} member")
            elif (image := self._image_of(key, samples[key], where)) is not None:
                label, text = self._label_in(classes[key], suffix)
                if label is None:
                    expected = "the number of a class, from 0" + (
                        "" if suffix == ".cls" else ", or its name, as `label`"
                    )
                    self.problems.append(f"{where}: its {suffix} member holds {text!r}, expected {expected}")
                else:
                    labels[key[0], image] = label
        if not labels:
            raise UserError(f"{self.shards[0].parent}: no image has a class: {self.problems[0]}")
        if any(isinstance(label, str) for label in labels.values()):
            names = sorted({str(label) for label in labels.values()})
            number = {name: i for i, name in enumerate(names)}
            return {key: number[str(label)] for key, label in labels.items()}, names
        return labels, [str(label) for label in range(max(labels.values()) + 1)]

    def _image_of(self, key: Key, names: list[str], where: str) -> str | None:
        """Which of a sample's images is the one to take: KEY.jpg, else its only one."""
        own = [name for name in names if _without_suffix(name) == key[1]]
        chosen = own or names
        if len(chosen) != 1:
            found = f"several images ({', '.join(chosen[:3])})" if chosen else "no image"
            self.problems.append(f"{where}: has {found}")
            return None
        self.ignored += [f"{self.shards[key[0]].name}:{name}" for name in names if name != chosen[0]]
        return chosen[0]

    def _from_folders(self, images: dict[Key, _Member]) -> tuple[dict[Key, int], list[str]]:
        """Labels by the name of the image, and the names of the classes."""
        folders = {key: str(PurePosixPath(member.name).parent) for key, member in images.items()}
        names = sorted(set(folders.values()))
        if "." in names and len(names) > 1:
            stray = next(member.name for key, member in images.items() if folders[key] == ".")
            raise UserError(
                f"{self.shards[0].parent}: member {stray!r} lies in no folder while others do: no class for it"
            )
        tops = sorted({name.partition("/")[0] for name in names})
        if len(tops) > 1 and look_like_splits(tops):
            raise UserError(
                f"{self.shards[0].parent}: the folders {', '.join(tops)} in the shards look like splits, not classes; "
                f"pack one of them alone (validation and test images are taken from it)"
            )
        refuse_same_but_case(names, self.shards[0] if len(self.shards) == 1 else self.shards[0].parent)
        number = {name: label for label, name in enumerate(names)}
        return {key: number[folder] for key, folder in folders.items()}, names if names != ["."] else ["images"]


def _without_suffix(name: str) -> str:
    return name.rpartition(".")[0]


def _sample(shard: int, name: str, classes: dict[Key, _Member]) -> str:
    """The key of the sample that an image belongs to: the longest part of its name, up to a dot, that has a class."""
    key = own = _without_suffix(name)
    while (shard, key) not in classes:
        key, dot, end = key.rpartition(".")
        if not dot or "/" in end:
            return own
    return key
