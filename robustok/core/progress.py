"""What a person sees of training: a live bar on a terminal, one plain line a log interval elsewhere."""

import sys
import time
from datetime import timedelta

from . import distributed

SHOWN = ("loss", "reconstruction", "perceptual", "usage", "perturbed", "accuracy", "psnr")


class Progress:
    """Counts steps from `start` to `total`; silent on all processes but the main one."""

    def __init__(self, title: str, start: int, total: int):
        self.title, self.start, self.total = title, start, total
        self.began = time.monotonic()
        self.bar = None

    def __enter__(self) -> "Progress":
        if distributed.is_main() and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn(self.title),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self.bar = Bar(*columns, console=Console(stderr=True))
            self.bar.start()
            self.task = self.bar.add_task("", total=self.total, completed=self.start)
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.stop()

    def rate(self, step: int) -> float:
        """Steps a second since this process began."""
        return (step - self.start) / max(time.monotonic() - self.began, 1e-9)

    def show(self, step: int, record: dict[str, float]) -> None:
        if not distributed.is_main():
            return
        figures = "  ".join(f"{name} {record[name]:.4g}" for name in SHOWN if name in record)
        figures += f"  {record['images_per_second']:.0f} images/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, description=figures)
        else:
            left = timedelta(seconds=round((self.total - step) / max(self.rate(step), 1e-9)))
            print(f"{self.title} {step}/{self.total}  {figures}  {left} left", file=sys.stderr, flush=True)
