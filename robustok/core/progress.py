"""What a person sees of long work: a live bar on a terminal, elsewhere a plain line on standard error now and then."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from datetime import timedelta
from typing import Any, TypeVar

from . import distributed
from .text import console, printable, say

Batch = TypeVar("Batch", bound=Sized)


class Progress:
    """Shows how much of a piece of work is done while the body of its `with` statement does it.

    Args:
        title: what is being done.
        total: how much there is to do; None where `show` is told.
        start: how much was done before.
        unit: what is counted.
        interval: seconds between plain lines, at least; 0: a line for every call of `show`. The last line is always
            written, unless the work fails.
        shown: False: silent. None: shown by the main process alone.
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        *,
        start: int = 0,
        unit: str = "images",
        interval: float = 5.0,
        shown: bool | None = None,
    ):
        self.title, self.total, self.start, self.unit, self.interval = title, total, start, unit, interval
        self.shown = distributed.is_main() if shown is None else shown
        self._bar: Any = None
        self._pending: str | None = None  # a line that came too early to be written

    def __enter__(self) -> "Progress":
        self.began = self._last_line = time.monotonic()
        if self.shown and sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            text = TextColumn("{task.description}")
            title = TextColumn(printable(self.title), markup=False)  # may be a path with brackets
            columns = (title, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), text)
            self._bar = Bar(*columns, console=console(stderr=True))
            self._task = self._bar.add_task("", total=self.total, completed=self.start)
            self._bar.start()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._pending is not None and failure is None:
            self._write(self._pending)

    def rate(self, done: int) -> float:
        """How much was done a second since the work began here."""
        return (done - self.start) / max(time.monotonic() - self.began, 1e-9)

    def show(self, done: int, total: int | None = None, *, text: str | None = None) -> None:
        """Says that `done` of `total` (None: as before) are done. To be called often.

        text: figures to show beside it; None: how many are done a second.
        """
        self.total = self.total if total is None else total
        if not self.shown:
            return
        if text is None:
            rate = self.rate(done)
            text = f"{rate:.{1 if rate < 10 else 0}f} {self.unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self.total, description=text)
            return
        self._pending = f"{self.title} {done}/{self.total} {self.unit}  {text}  {self._time(done)}"
        if time.monotonic() - self._last_line >= self.interval:
            self._write(self._pending)

    def track(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Passes the batches on, and counts what they hold as done when the next one is asked for."""
        done = self.start
        with self:
            for batch in batches:
                yield batch
                done += len(batch)
                self.show(done)

    def _time(self, done: int) -> str:
        if self.total is not None and done < self.total:
            return f"{timedelta(seconds=round((self.total - done) / max(self.rate(done), 1e-9)))} left"
        return f"took {timedelta(seconds=round(time.monotonic() - self.began))}"

    def _write(self, line: str) -> None:
        say(line, sys.stderr)
        self._last_line, self._pending = time.monotonic(), None
