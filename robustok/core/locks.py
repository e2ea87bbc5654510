"""Locks between processes: a lock is a file that one process holds, and ends with it, however that ends.

The system keeps the lock with the open file and gives it back when the process is killed, so no lock grows stale. The
file says who holds it, for people. Processes on several machines need a shared file system with locks (NFS 4 has them).
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def claim(path: Path) -> TextIO | None:
    """Takes the lock `path` without waiting: a file to close when the work is done, or None where it is held."""
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    _sign(file)
    return file


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Holds the lock `path` while the body runs, and waits for it as long as another process holds it."""
    with _open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _sign(file)
        yield


def holder(path: Path) -> str:
    """Who holds the lock, or held it last: "process 17 on HOST"; "another process" where the file does not say."""
    return path.read_text().strip() or "another process"


def _open(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a")  # does not empty it: it may name the process that holds the lock


def _sign(file: TextIO) -> None:
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
