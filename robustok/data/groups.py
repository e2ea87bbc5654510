"""Images that belong together (frames of a film, variants of a drawing): `groups.csv` in a folder of images names them,
and no split parts them.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..core.errors import UserError
from ..core.parsing import parsing, read_bounded

GROUPS = "groups.csv"
COLUMNS = ["image", "group"]
_MOST_BYTES = 1 << 28


def read_groups(root: Path, names: Sequence[str]) -> np.ndarray | None:
    """(N,) int64: the number of each image's group, by `root/groups.csv`; None where there is no such file.

    The file has a line `image,group` at its head, then a line an image: its path below root, and any name for its
    group. Images that it does not name are groups of their own. names: the images' paths, (N,).

    Raises: UserError for other columns, an image that is not there or is named twice, and a line without a group.
    """
    path = root / GROUPS
    if not path.exists():
        return None
    with parsing(path, "a table of groups"):
        lines = list(csv.reader(io.StringIO(read_bounded(path, _MOST_BYTES).decode("utf-8-sig"), newline="")))
    if not lines or lines[0] != COLUMNS:
        raise UserError(
            f"{path}, line 1: found {','.join(lines[0]) if lines else 'nothing'!r:.80}, expected image,group"
        )
    where = {name: index for index, name in enumerate(names)}
    numbers: dict[str, int] = {}
    groups = np.full(len(names), -1, np.int64)
    for number, line in enumerate(lines[1:], 2):
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


def write_groups(root: Path, groups: dict[str, str]) -> None:
    """Writes `root/groups.csv`. groups: path of an image below root -> name of its group."""
    with (root / GROUPS).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *groups.items()])
