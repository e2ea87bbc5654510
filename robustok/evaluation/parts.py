"""Statistics of a stream of images shared out among the jobs of an array: parts in files, put together once all are
there.

Part i is images i * PART to (i + 1) * PART - 1. Each is written whole and named by a hash of everything that it depends
on, so a killed job loses the part it was in and the same command goes on. Parts are put together in their order, as one
process accumulates them: the statistics are the same to the bit, however the parts were shared. Only where images
cannot be read, which moves the borders between parts, does the order of sums differ.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..checkpoints.reading import read_safetensors
from ..checkpoints.writing import write_safetensors
from ..core.errors import UserError
from ..core.files import remove_leftovers, write_json, written_whole
from ..core.locks import claim
from ..core.progress import Progress
from ..core.shards import Shard, refuse_partial
from ..core.text import say
from .full_batches import FullBatches
from .statistics import KEPT, PART, ImageStatistics, StatisticsCollector, collect
from .streams import BAD_SHARE, ImageStream


@contextmanager
def collected(
    stream: ImageStream, network: Callable, shard: Shard, folder: Path, *, purpose: str = "", keep: int = KEPT
) -> Iterator[ImageStatistics | None]:
    """Gives the statistics of all images of a stream, or None where this job measured its share and others are missing.

    One job alone (`shard` is all) measures everything and leaves no files. Else parts are in `folder`; they go when the
    body ends, and a note stays that says so: a later job of the array has nothing to do. purpose: what the body does
    with the statistics, where that may differ: another one is done anew.

    Raises UserError where parts were to be put together and some are missing, and as `collect`.
    """
    if shard.is_all:
        yield collect(stream, network, keep=keep)
        return
    parts = _Parts(stream, network, folder, keep, purpose)
    held = parts.work(shard)
    if held is None:
        yield None
        return
    with held:
        yield parts.together()
        remove_leftovers(folder, parts.done.name)  # of a process that was killed here
        write_json(parts.done, {"depends_on": parts.depends_on})
        shutil.rmtree(parts.folder)


class _Parts:
    def __init__(self, stream: ImageStream, network: Callable, folder: Path, keep: int, purpose: str):
        self.stream, self.network, self.keep = stream, network, keep
        self.depends_on: dict[str, Any] = {
            "images": stream.fingerprint(),
            "count": len(stream),
            "transform": stream.transform,
            "features": getattr(network, "protocol", None),
            "weights": getattr(network, "sha256", None),
            "keep": keep,
            "purpose": purpose,
        }
        name = hashlib.sha256(json.dumps(self.depends_on, sort_keys=True).encode()).hexdigest()[:20]
        self.folder, self.done = folder / name, folder / f"{name}.json"
        self.starts = range(0, len(stream), PART)

    def work(self, shard: Shard) -> TextIO | None:
        """Measures the parts of this job. The claim of the job that puts all of them together, None for the others."""
        if self.done.is_file():
            again = f"remove {self.done} to measure them again"
            say(f"{self.stream.name}: all jobs are done, and their parts were put together; {again}")
            return None
        for start in shard.mine(self.starts):
            self.measure(start)
        if refuse_partial(shard, self.missing(), self.stream.name):
            return None
        held = claim(self.folder / "merge")
        if held is None or self.done.is_file():  # it may have ended since we looked
            say(f"{self.stream.name}: another job puts the parts together")
            return None
        return held

    def stop(self, start: int) -> int:
        return min(start + PART, self.depends_on["count"])

    def path(self, start: int) -> Path:
        return self.folder / f"{start}.safetensors"

    def missing(self) -> list[str]:
        starts = [start for start in self.starts if not self.path(start).is_file()]
        return [f"images {start + 1} to {self.stop(start)}" for start in starts]

    def measure(self, start: int) -> None:
        """Measures a part, unless it is there or another job is at it."""
        held = claim(self.folder / f"{start}.lock")
        if held is None:
            return
        with held:
            if self.path(start).is_file():
                return
            collector = self._collector(start)
            name, count = f"{self.stream.name}, images {start + 1} to {self.stop(start)}", self.stop(start) - start
            batches = FullBatches(self.network, collector.add)
            for batch in Progress(name, count).track(self.stream.batches(start, self.stop(start))):
                batches.add(batch)
            batches.finish()
            with written_whole(self.path(start)) as temporary:
                write_safetensors(temporary, collector.state())

    def together(self) -> ImageStatistics:
        whole = self._collector(0)
        for start in self.starts:
            whole.join(read_safetensors(self.path(start)))
        if (lost := self.depends_on["count"] - whole.count) > BAD_SHARE * self.depends_on["count"]:
            raise UserError(f"{self.stream.name}: {lost} unreadable images, more than 0.1 % of {len(self.stream)}")
        return whole.of_stream(self.stream, self.network)

    def _collector(self, first: int) -> StatisticsCollector:
        return StatisticsCollector(self.depends_on["count"], self.keep, first=first)
