"""Work claimed by one process at a time; a claim ends with the process, however that ends."""

import fcntl
from pathlib import Path
from typing import TextIO


def claim(path: Path) -> TextIO | None:
    """Claims `path`: a file to close when the work is done, or None where a living process holds the claim.

    The lock belongs to the open file: the system gives it back when the process is killed, so no claim grows stale.
    Processes on several machines need a shared file system with locks (NFS 4 has them).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "w")  # noqa: SIM115 - the caller closes it: that gives the claim back
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
