"""The runs of a study, several at a time, each a process of its own: what is finished is not run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import RunError
from ..core.files import write_bytes
from ..core.machine import described_machine
from ..core.text import say
from .plan import JUDGE, MODELS, Study, StudyRow, run_name

MACHINES = "machines.jsonl"  # a line for each time that runs were started: where, when and by which commit


class Runner:
    """Runs of a study below the folder `runs`, `jobs` at a time, which share the cores."""

    def __init__(self, study: Study, runs: Path, jobs: int):
        self.study, self.runs, self.jobs = study, runs, jobs
        self.processes: set[subprocess.Popen] = set()
        self.stopped = False

    def run(self, chosen: Sequence[tuple[StudyRow, int]]) -> None:
        """Runs the classifier that judges, then these rows; a row waits for those whose models it takes, which must be
        finished or come before it.

        Raises: RunError for the first run that failed, after the others; what it said is in RUN.out.
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        with (self.runs / MACHINES).open("a") as file:
            file.write(json.dumps(described_machine()) + "\n")
        started: dict[str, Future[None]] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                self._judge()
                for row, seed in chosen:
                    needed = [run_name(self.study.rows[other], seed) for m in MODELS if (other := getattr(row, m))]
                    waits = [started[name] for name in needed if name in started]
                    started[run_name(row, seed)] = pool.submit(self._run_row, row, seed, waits)
                wait(started.values())
            except KeyboardInterrupt:  # Ctrl-C or SIGTERM: runs save and end, and no other begins
                self.stopped = True
                pool.shutdown(wait=False, cancel_futures=True)
                for process in self.processes:
                    process.terminate()
                raise
        for future in started.values():
            future.result()

    def _judge(self) -> None:
        self._train(JUDGE, self.study.settings_of_judge(self.runs), ("classifier",))

    def _run_row(self, row: StudyRow, seed: int, waits: list[Future[None]]) -> None:
        for other in waits:
            other.result()
        self._train(run_name(row, seed), self.study.settings_of(row, seed, self.runs), row.stages)

    def _train(self, name: str, settings: dict[str, Any], stages: Sequence[str]) -> None:
        config, said = self.runs / f"{name}.yaml", self.runs / f"{name}.out"
        write_bytes(config, yaml.safe_dump(settings, sort_keys=False).encode())
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        for stage in stages:
            say(f"{name}: {stage}")
            command = [sys.executable, "-m", "robustok.train", "--config", str(config), "--stage", stage]
            with said.open("ab") as out:
                environment = os.environ | {"OMP_NUM_THREADS": threads}
                # out of reach of the terminal's Ctrl-C: a run that is asked twice stops without saving
                process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
                self.processes.add(process)
                if self.stopped:  # meanwhile
                    process.terminate()
                code = process.wait()
                self.processes.remove(process)
            if code:
                raise RunError(f"{name}: stage {stage} ended with code {code}; see {said}, then run this again")


def machines(runs: Path) -> list[dict[str, str]]:
    """Where the runs of a study were started, each machine and commit once."""
    started = [json.loads(line) for line in (runs / MACHINES).read_text().splitlines()]
    return list({(found["commit"], found["CPU"]): found for found in started}.values())
