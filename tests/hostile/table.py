"""Tables of bad inputs: a case makes one in a folder of its own, calls a verb there, and says how that must end.

Every case must end with exit code 2 or 1 and one message that has all of `says`: the file's name and the cure. No
traceback, no file more or changed than before, no file `canary` (what a malicious file would make if its code ran), in
less than a GiB of memory beyond what the imported package takes, and without hanging. An input of which a part is left
out with a warning has code 0, and `says` may be in what is printed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

from .server import Server

CANARY = "canary"


@dataclass(frozen=True)
class Case:
    """A bad input and what a verb says of it."""

    name: str
    make: Callable[[Path], object]  # makes it in an empty folder, which is the current one when the verb runs
    # "convert bad.pt out": the verb, and its arguments; one by one where they are empty or have spaces in them
    argv: str | tuple[str, ...]
    says: tuple[str, ...]  # each is in the message
    code: int = 2
    needs: tuple[str, ...] = ()  # what of the fixture `good` is copied into the folder first
    may_leave: tuple[str, ...] = ()  # patterns of files that may be new or changed ("out/*"): a run's lock

    def parameter(self):
        return pytest.param(self, id=self.name.replace(" ", "-"))


def parameters(*tables: list[Case]):
    """For `@pytest.mark.parametrize("case", ...)`; two cases of one name are a mistake."""
    cases = [case for table in tables for case in table]
    names = [case.name for case in cases]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, f"cases of one name: {twice}"
    return [case.parameter() for case in cases]


def check(case: Case, folder: Path, good: Path, server: Server) -> str:
    """Runs a case in an empty `folder` and asserts how it ends. Returns what was printed on standard error."""
    for name in case.needs:
        source = good / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    case.make(folder)
    before = tree(folder)
    ended = server.run(folder, case.argv.split() if isinstance(case.argv, str) else list(case.argv))
    assert not (folder / CANARY).exists(), "the code in the file was run"
    assert ended.code == case.code, f"{ended}"
    messages = [line for line in ended.stderr.splitlines() if line.startswith("robustok: ")]
    assert len(messages) == (case.code != 0) and "Traceback" not in ended.stderr, ended.stderr
    said = ended.stderr if case.code else ended.stdout + ended.stderr
    missing = [text for text in case.says if text not in said]
    assert not missing, f"not said: {missing}\n{said}"
    changed = {path for path, _ in tree(folder) ^ before}
    left = [path for path in changed if not any(fnmatch(path, pattern) for pattern in case.may_leave)]
    assert not left, f"left behind or changed: {sorted(left)}"
    return ended.stderr


def tree(folder: Path) -> set[tuple[str, int]]:
    """(path, size) of everything in a folder that is not a folder; links are not followed."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {(str(path.relative_to(folder)), path.lstat().st_size) for path in paths}
