"""Progress of a pass over images: count, images/s, time left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor


def track(batches: Iterable[Tensor], total: int, label: str) -> Iterator[Tensor]:
    """Yields the batches; a bar on standard error shows how many of `total` images are done."""
    done = 0
    with progress_bar(total, label) as show:
        for batch in batches:
            yield batch
            done += len(batch)
            show(done)


@contextmanager
def progress_bar(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """A bar whose function takes the number of images done. Off a terminal only its last state is written."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]:.1f} images/s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total, rate=0.0)

        def show(done: int) -> None:
            elapsed = progress.tasks[0].elapsed or 0.0
            progress.update(task, completed=done, rate=done / elapsed if elapsed else 0.0)

        yield show
