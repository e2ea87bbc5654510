"""Threads that read ahead, and what each of them is reading: so that a disk or a network that stands still is named."""

from __future__ import annotations

import atexit
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from ..core.errors import RunError
from ..core.text import say

PATIENCE = 60.0  # seconds without a result after which what is being read is named, again and again
LIMIT = 1800.0  # seconds after which the wait ends in an error
GRACE = 10.0  # seconds that what has begun to be read may still take when nobody wants it any more

S = TypeVar("S")
T = TypeVar("T")

_reading: dict[int, tuple[str, str, float]] = {}  # number of a thread -> its name, what it reads, since when


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Says, as long as the body runs, what this thread is reading. RunError names it in place of an OSError; a note
    names it beside any other error.
    """
    thread = threading.current_thread()
    _reading[threading.get_ident()] = (thread.name, what, time.monotonic())
    try:
        yield
    except OSError as error:
        raise RunError(f"{what}: cannot be read, {thread.name} got: {error}") from error
    except Exception as error:
        error.add_note(f"while {thread.name} was reading {what}")
        raise
    finally:
        _reading.pop(threading.get_ident(), None)


def being_read() -> str:
    """What the threads are reading at the moment, the one that has taken longest first."""
    now = time.monotonic()
    found = sorted(_reading.values(), key=lambda entry: entry[2])
    said = [f"{thread} has been reading {what} for {now - since:.0f} s" for thread, what, since in found]
    return "; ".join(said) or "no thread is reading an image or a shard"


class Readers(Generic[S, T]):
    """Up to `count` threads that compute load(item). They do not keep a process alive that ends while one is stuck; a
    process that ends with readers still open closes them first, since a thread that ends inside of torch aborts it.
    """

    def __init__(self, load: Callable[[S], T], count: int):
        self._load, self._count = load, count
        self._jobs: SimpleQueue[tuple[Future[T], S] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stuck = False
        _open.add(self)

    def submit(self, item: S) -> Future[T]:
        """What will be load(item)."""
        future: Future[T] = Future()
        self._jobs.put((future, item))
        if len(self._threads) < self._count:
            name = f"reader {len(self._threads)}"
            self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
            self._threads[-1].start()
        return future

    def wait(self, future: Future[T]) -> T:
        """The result. Says now and then what is being read while there is none; RunError when that took too long."""
        began = time.monotonic()
        while True:
            try:
                return future.result(timeout=PATIENCE)
            except TimeoutError:
                if future.done():  # it is the reader's own
                    raise
            waited = time.monotonic() - began
            if waited >= LIMIT:
                self._stuck = True
                raise RunError(
                    f"no data for {waited:.0f} s: {being_read()}. Check the disk or network that it lies on; the same "
                    "command goes on from the last checkpoint"
                )
            say(f"no data for {waited:.0f} s: {being_read()}", sys.stderr)

    def close(self) -> None:
        """Cancels what has not begun, and waits `GRACE` at most for what has; not at all where a reader is stuck."""
        try:
            while (job := self._jobs.get_nowait()) is not None:
                job[0].cancel()
        except Empty:
            pass
        for _ in self._threads:
            self._jobs.put(None)
        until = time.monotonic() + (0 if self._stuck else GRACE)
        for thread in self._threads:
            thread.join(max(0, until - time.monotonic()))
        _open.discard(self)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, item = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._load(item))
                except BaseException as error:  # whoever waits gets it
                    future.set_exception(error)
            del job, future, item  # held no longer while this thread waits


_open: weakref.WeakSet[Readers] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for readers in list(_open):
        readers.close()
