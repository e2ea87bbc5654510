"""What may befall a process while a verb works: each function is called in the child of the server, before the verb.

A change of the disk is what Python reports of the current folder to audit hooks: a file opened to be written or synced,
a rename, a new folder, a removal. TensorBoard's thread makes some at any time; they do not count.
"""

import contextlib
import errno
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")


def _at_every_change(call: Callable[[str, str], None]) -> None:
    """Calls call(event, path) before every change of the disk; `path` is that of the result, from this folder on."""
    here = os.getcwd()

    def hook(event: str, arguments: tuple) -> None:
        if event not in CHANGES and event != "open":
            return
        path, more = arguments[event == "os.rename"], arguments[1]
        if event == "open" and isinstance(more, str) and not set(more) & set("wax+"):
            return  # to be read
        if isinstance(path, str | os.PathLike):
            place = os.path.relpath(path, here)
            if not place.startswith("..") and "tensorboard" not in place:
                call(event, place)

    sys.addaudithook(hook)


def record(file: str) -> None:
    """Writes a line "event path" for every change into `file`."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    _at_every_change(lambda event, path: os.write(descriptor, f"{event} {path}\n".encode()))


def stop_at(number: int, signal_number: int) -> None:
    """Sends this process the signal before the change of this number, counted from 1."""
    seen = 0

    def count(*_) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal_number)

    _at_every_change(count)


def kill_later(pattern: str, seconds: float) -> None:
    """Kills this process so long after a path that matches the regular expression is there; another process does it."""
    process = os.getpid()
    if os.fork():
        return
    while not any(re.fullmatch(pattern, str(path)) for path in Path().rglob("*")) and os.getppid() == process:
        time.sleep(0.01)
    time.sleep(seconds)
    if os.getppid() == process:
        os.kill(process, signal.SIGKILL)
    os._exit(0)


def full_from(number: int) -> None:
    """From the change of this number on, the disk takes no new file and no new folder."""
    seen = 0

    def refuse(event: str, path: str) -> None:
        nonlocal seen
        seen += 1
        if seen >= number and event in ("open", "os.mkdir") and not Path(path).is_dir():  # which is synced
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    _at_every_change(refuse)


def _open_files() -> Iterator[str]:
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the folder itself, and what a thread has closed meanwhile
            yield os.readlink(link)


def watch(file: str, every: int) -> None:
    """Writes a line of JSON with resident memory in bytes and the open files, every so many steps."""
    from robustok.training.loop import Fit

    take, taken = Fit._take_step, 0

    def counted(self, batch):
        nonlocal taken
        taken += 1
        if taken % every == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            look = {"memory": pages * os.sysconf("SC_PAGE_SIZE"), "files": sorted(_open_files())}
            with open(file, "a") as lines:
                lines.write(json.dumps(look) + "\n")
        return take(self, batch)

    Fit._take_step = counted
