"""Progress of long passes over a data set, as plain lines on standard error."""

import sys
import time
from collections.abc import Callable

_SECONDS_BETWEEN_LINES = 5.0


def progress_lines(title: str) -> Callable[[int, int], None]:
    """progress(done, total), to be called often: prints a line every few seconds and at the end.

    The line gives images done and in all, images a second since `progress_lines` was called, and the time left.
    """
    began = last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES and done < total:
            return
        last = now
        rate = done / (now - began)
        left = f"{(total - done) / rate:.0f} s left" if done < total else f"{now - began:.0f} s"
        print(f"{title} {done}/{total} images  {rate:.0f} images/s  {left}", file=sys.stderr, flush=True)

    return progress
