"""What lies in folders and archives beside images: junk that is passed over, and files that are counted and named."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from os.path import splitext
from pathlib import Path, PurePosixPath

import numpy as np

from ..core.errors import UserError
from .decode import HEIC_PACKAGE, image_suffixes

# What systems and synchronising programs leave behind; compared without regard to case.
_JUNK = {
    "@eadir",  # Synology: thumbnails of every picture
    "#recycle",
    "@recycle",
    "__macosx",  # what macOS adds to archives
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
}
_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_HEIC_SUFFIXES = {".heic", ".heif", ".hif"}
MAX_CLASSES = 1_000_000  # a number from here on names no class: it is a hash, a time or an id
_SHOWN = 5  # suffixes named in a sentence
_NAMED = 10  # classes named in a sentence


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or is one that systems leave behind."""
    return name.startswith(".") or name.casefold() in _JUNK


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return splitext(name)[1].lower() in image_suffixes()


def look_like_splits(names: Iterable[str]) -> bool:
    """Whether all these folders are called as splits are: train, val, test, ..."""
    return _SPLIT_NAMES.issuperset(name.lower() for name in names)


def refuse_same_but_case(classes: Iterable[str], where: Path) -> None:
    """Raises UserError for class folders whose names differ in case alone: on other systems they are one."""
    by_case = sorted(classes, key=str.casefold)
    for first, second in pairwise(by_case):
        if first.casefold() == second.casefold():
            raise UserError(f"classes {first!r} and {second!r} in {where} differ only in case; rename one")


def by_suffix(names: Iterable[str]) -> dict[str, int]:
    """How many of these files have each suffix (lower case; "" for none), the most frequent first.

    Names are paths, or SHARD:PATH of members of a tar file.
    """
    return dict(Counter(PurePosixPath(name.rpartition(":")[2]).suffix.lower() for name in names).most_common())


def say_suffixes(names: Sequence[str]) -> str:
    """The files by suffix in words: "12 .heic (pip install pillow-heif to read them), 3 .txt"."""
    counts = by_suffix(names)
    said = []
    for suffix, count in list(counts.items())[:_SHOWN]:
        hint = f" (pip install {HEIC_PACKAGE} to read them)" if suffix in _HEIC_SUFFIXES else ""
        said.append(f"{count} {suffix or 'without suffix'}{hint}")
    rest = sum(list(counts.values())[_SHOWN:])
    return ", ".join(said) + (f", {rest} others" if rest else "")


def name_some(names: Sequence[str]) -> str:
    """The first few names of a list, for a sentence, and how many there are."""
    return ", ".join(names[:_NAMED]) + (f", ... ({len(names)} in all)" if len(names) > _NAMED else "")


def empty_classes(labels: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """A sentence about classes by number that have no image; else []."""
    empty = sorted(set(range(len(class_names))) - set(labels.tolist()))
    if not empty:
        return []
    named = name_some([class_names[label] for label in empty])
    return [
        f"classes without an image: {named}; the largest label is {len(class_names) - 1}, so that a generator makes "
        f"images of these, too"
    ]


def notes_on(images: Sequence[str], ignored: Sequence[str]) -> list[str]:
    """What a user should know of the files found, a sentence each: which are not read, and images that may be masks."""
    notes = [f"files not read as images: {say_suffixes(ignored)}"] if ignored else []
    if parts := _parts_of_others(images):
        count, part, whole = parts
        notes.append(
            f"{count} images are named like parts of others ({part} beside {whole}) and count as images of their own; "
            f"keep them elsewhere if they are masks or the like"
        )
    return notes


def _parts_of_others(images: Sequence[str]) -> tuple[int, str, str] | None:
    """(how many images are called A.B.png beside an A.jpg, one of them, the other), or None where none is."""
    whole = {_stem(name): name for name in images}
    found = [(name, whole[start]) for name in images if (start := _stem(_stem(name))) != _stem(name) and start in whole]
    return (len(found), *found[0]) if found else None


def _stem(name: str) -> str:
    """The path without the last suffix of its last part."""
    start, dot, end = name.rpartition(".")
    return start if dot and "/" not in end else name
