"""Images that belong together (frames of a film, variants of a drawing): `groups.csv` in a folder of images names them,
and no split parts them.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..core.errors import UserError
from ..core.parsing import parsing, read_bounded
from ..core.paths import NOTHING, found_at

GROUPS = "groups.csv"
COLUMNS = ["image", "group"]
_MOST_BYTES = 1 << 28


def read_groups(root: Path, names: Sequence[str]) -> np.ndarray | None:
    """(N,) int64: the number of each image's group, by `root/groups.csv`; None where there is no such file.

    The file has a line `image,group` at its head, then a line an image: its path below root, and any name for its
    group. Groups are numbered in the order of these lines; images that it does not name are groups of their own.
    names: the images' paths, (N,).

    Raises: UserError for other columns, an image that is not there or is named twice, a line without a group, and
    whatever else is no such file.
    """
    path = root / GROUPS
    if found_at(path) == NOTHING:
        return None
    lines = _lines(path)
    if (columns := next(lines, [])) != COLUMNS:
        raise UserError(f"{path}, line 1: found {','.join(columns)!r:.80}, expected image,group")
    where = {name: index for index, name in enumerate(names)}
    numbers: dict[str, int] = {}
    groups = np.full(len(names), -1, np.int64)
    for number, line in enumerate(lines, 2):
        if len(line) != 2 or not line[1]:
            raise UserError(f"{path}, line {number}: found {','.join(line)!r:.80}, expected an image and its group")
        index = where.get(line[0])
        if index is None or groups[index] >= 0:
            wrong = "is no image of this folder" if index is None else "was named before"
            raise UserError(f"{path}, line {number}: {line[0]!r:.200} {wrong}; correct or remove the line")
        groups[index] = numbers.setdefault(line[1], len(numbers))
    alone = groups < 0
    groups[alone] = len(numbers) + np.arange(alone.sum())
    return groups


def _lines(path: Path) -> Iterator[list[str]]:
    """The cells of one line after the other, so that the first wrong one ends the reading."""
    with parsing(path, "a table of groups"):
        data = io.BytesIO(read_bounded(path, _MOST_BYTES, "a table of groups"))
        yield from csv.reader(io.TextIOWrapper(data, "utf-8-sig", newline=""))


def write_groups(root: Path, groups: dict[str, str]) -> None:
    """Writes `root/groups.csv`. groups: path of an image below root -> name of its group."""
    with (root / GROUPS).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *groups.items()])
