"""Kills everything that takes long at random times, again and again: python -m tests.survival.torture [--kills 20]

Each kill -9 falls at a random time, of training after the first checkpoint, in a process of its own; the same command
then has to end with what an uninterrupted one left, to the bit. Writes OUTPUT/kills.md and kills.json.
"""

import argparse
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench.recording import Record

from ..hostile.server import Server
from .base import Base
from .works import LATENT_WORKS, SAVED, TOKEN_WORKS, Work, content

MISSES = 200  # processes that ended before their kill, in a work


def torture(base: Base, work: Work, kills: int) -> list[str]:
    """What went wrong after each of so many kills; nothing where all is well."""
    draw, wrong, landed, misses = random.Random(work.name), [], 0, 0
    trains = any(re.search(r"step-\d+$", change) for change in base.changes[work.name])
    after = f"({'|'.join(work.makes)})/{SAVED}" if trains else ".*"
    begin = time.monotonic()
    base.run(base.before(work), work)
    span = time.monotonic() - begin
    while landed < kills:
        folder, delay = base.before(work), draw.uniform(0, span)
        code = base.run(folder, work, ["kill_later", after, delay]).code
        if code == 0 and misses < MISSES:
            misses, span = misses + 1, 0.8 * span
            continue
        landed += 1
        ended = base.run(folder, work) if code == -signal.SIGKILL else None
        if ended is None or ended.code:
            wrong.append(f"killed after {delay:.2f} s: {ended.stderr if ended else code}")
        elif content(folder, work) != base.expected[work.name]:
            wrong.append(f"killed after {delay:.2f} s: ended with something else")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each work")
    parser.add_argument("--output", type=Path, default=Path("bench/results/latest"))
    options = parser.parse_args()
    record, failed = Record(), False
    for name, works in {"tokens": TOKEN_WORKS, "latents": LATENT_WORKS}.items():
        with tempfile.TemporaryDirectory() as folder:
            server = Server(Path(folder))
            base = Base(Path(folder), server, works)
            for work in works:
                wrong = torture(base, work, options.kills)
                found = f"{options.kills - len(wrong)} of {options.kills}"
                record.add(
                    work.name,
                    "kill -9 at a random time after the first save",
                    f"all {options.kills} to the bit",
                    found,
                    not wrong,
                )
                print(f"{name}, {work.name}: {found}", *wrong, sep="\n  ", flush=True)
                failed |= bool(wrong)
            server.close()
    record.write(options.output, "kills")
    print(f"written: {options.output}/kills.md")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
