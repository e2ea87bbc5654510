"""All works done once without a fault, and what they found before them: what a killed process is compared with."""

import re
import shutil
from pathlib import Path

from ..hostile.server import Ended, Server
from .works import SAVED, Work, content, make_inputs, make_plain

MEMORY, SECONDS = 4 << 30, 300


class Base:
    """The folder of the works, run in their order; `before(work)` copies it as it was."""

    def __init__(self, folder: Path, server: Server, works: list[Work]):
        self.folder, self.server = folder, server
        self.changes: dict[str, list[str]] = {}  # of the disk, by each work
        now = folder / "now"
        make_inputs(now)
        for number, work in enumerate(works):
            if work.name.startswith("warm"):
                make_plain(now)
            shutil.copytree(now, folder / f"before-{number}", ignore=shutil.ignore_patterns("tensorboard"))
            ended = self.run(now, work, ["record", str(folder / "changes")])
            assert ended.code == 0, f"{work.name}: {ended.stdout}{ended.stderr}"
            self.changes[work.name] = (folder / "changes").read_text().splitlines()
        self.expected = {work.name: content(now, work) for work in works}
        self.numbers = {work.name: number for number, work in enumerate(works)}

    def before(self, work: Work) -> Path:
        """A new folder with what the work found before it."""
        place = self.folder / "again"
        shutil.rmtree(place, ignore_errors=True)
        return shutil.copytree(self.folder / f"before-{self.numbers[work.name]}", place)

    def run(self, folder: Path, work: Work, fault: list | None = None) -> Ended:
        return self.server.run(folder, work.argv, MEMORY, SECONDS, fault)

    def first_save(self, work: Work) -> int:
        """The number of the change by which the work first saved something to go on from; 0 where it never does."""
        for number, change in enumerate(self.changes[work.name], 1):
            event, _, path = change.partition(" ")
            if event == "os.rename" and re.fullmatch(SAVED, Path(path).name):
                return number
        return 0
