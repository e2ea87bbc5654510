"""Sharing the tasks of a benchmark among processes, and going on after any of them was killed.

The unit of work is a part of a task's images, at most PART of them: encoded once, decoded under all settings. Its
moments are a file under parts/; once all parts of a task are there they are merged in their order, the figures become
one small file under figures/, and the parts go. Both are written whole and named by a hash of everything that they
depend on, so any run that finds one skips the work behind it: a killed process loses the part it was in. As the parts
are the same and merged in the same order however they were shared, so are the figures, to the bit on one machine.

Process i of N takes every N-th unit; nothing passes between them but these files. A unit is claimed while it is
measured, so that runs that overlap do not do it twice. Each process concludes what is complete at its end: the last one
finds everything. A task that needs all images at once is one unit, whose figures are written at once.

A part with pFID's settings holds 17 sets of moments: 17 MB each with 2048 features, so some 3 GB an entry of 50,000
images until its figures are there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoints.reading import read_safetensors
from ..checkpoints.writing import write_safetensors
from ..core.errors import UserError
from ..core.files import read_record, remove_leftovers, write_json, written_whole
from ..core.locks import claim, hold
from ..core.progress import Progress
from ..core.shards import ALL, Shard
from ..evaluation.metrics.moments import FeatureStatistics
from .tasks import Moments, Task

PART = 5000  # images


class Work:
    """The tasks of a benchmark, and what is known of them in a folder."""

    def __init__(self, folder: Path, tasks: Sequence[Task]):
        self.folder, self.tasks = folder, tasks

    def run(self, shard: Shard = ALL) -> list[Task]:
        """Measures the units of this shard, concludes every task that is complete, and returns those that are not."""
        units = [(task, start) for task in self.tasks for start in _starts(task)]
        for task, start in shard.mine(units):
            self._measure(task, start)
        for task in self.tasks:
            self._conclude(task)
        return [task for task in self.tasks if self.figures(task) is None]

    def figures(self, task: Task) -> dict[str, Any] | None:
        """The figures of a task; None where they are not there yet."""
        path = self._figures(task)
        if not path.is_file():
            return None
        figures = read_record(path).get("figures")
        if not isinstance(figures, dict):
            raise UserError(f"{path} holds no figures: remove it, and it is measured again")
        return figures

    def _measure(self, task: Task, start: int) -> None:
        path, stop = self._part(task, start), min(start + _size(task), task.count)
        lock = claim(self.folder / "locks" / f"{_name(task)}-{start}")
        if lock is None:
            return  # another process is at it
        with lock:
            if path.is_file() or self.figures(task) is not None:
                return
            title = f"{task.entry}, {task.kind}, images {start + 1} to {stop}"
            with Progress(title, stop - start) as progress:
                found = task.measure(start, stop, progress.show)
            if task.conclude is None:
                self._keep(task, found)
                return
            with written_whole(path) as temporary:
                write_safetensors(temporary, {name: moments.state().cpu() for name, moments in found.items()})

    def _conclude(self, task: Task) -> None:
        if task.conclude is None:
            return
        parts = [self._part(task, start) for start in _starts(task)]
        with hold(self.folder / "locks" / _name(task)):
            if self.figures(task) is None and all(part.is_file() for part in parts):
                self._keep(task, task.conclude(_merged(parts)))
            if self.figures(task) is not None:
                shutil.rmtree(self._part(task, 0).parent, ignore_errors=True)

    def _keep(self, task: Task, figures: dict[str, Any]) -> None:
        record, path = {"entry": task.entry, "depends_on": task.depends_on, "figures": figures}, self._figures(task)
        remove_leftovers(path.parent, path.name)  # of a process that was killed here: this one holds the task's lock
        write_json(path, record)

    def _figures(self, task: Task) -> Path:
        return self.folder / "figures" / f"{_name(task)}.json"

    def _part(self, task: Task, start: int) -> Path:
        return self.folder / "parts" / _name(task) / f"{start}.safetensors"


def _size(task: Task) -> int:
    """Images of a unit."""
    return PART if task.conclude else task.count


def _starts(task: Task) -> range:
    return range(0, task.count, _size(task))


def _name(task: Task) -> str:
    """Of its files: its kind, and a hash of what its figures depend on."""
    text = json.dumps(task.depends_on, sort_keys=True)
    return f"{task.kind}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def _merged(parts: Sequence[Path]) -> Moments:
    merged: Moments = {}
    for part in parts:
        for name, state in read_safetensors(part).items():
            found = FeatureStatistics.from_state(state)
            merged[name] = merged[name].merge(found) if name in merged else found
    return merged
