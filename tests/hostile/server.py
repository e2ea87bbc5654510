"""Runs verbs in child processes under limits of memory and time: run as a script it is the server, which imports the
package once and forks for every call, as importing takes seconds and forking milliseconds.

A line of JSON on standard input asks for a call, a line on standard output answers it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

MEMORY = 1 << 30  # bytes of address space beyond what the imported package takes
SECONDS = 20  # of the processor
HANGING = 120  # seconds after which a call that waits for something is killed
BUG = 99  # the exit code of an error that is no message

PRELOADED = (
    *("train", "study", "pretokenize", "sample", "evaluate", "explain"),
    *("check_data", "fetch_data", "convert", "doctor"),
)
# What verbs import when they are called.
LATER = (
    "docstring_parser",
    "jsonargparse",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "sklearn.datasets",
    "scipy.linalg",
    "robustok.benchmark.command",
    "robustok.data.jsonl",
    "robustok.evaluation.explaining",
    "robustok.evaluation.features.registry",
    "robustok.evaluation.statistics",
    "robustok.generation.classes",
    "robustok.generation.feature_writer",
    "robustok.generation.shards",
    "robustok.job.outlook",
    "robustok.job.registry",
    "robustok.report.comparison",
    "robustok.report.plots",
    "robustok.report.results",
    "torch._dynamo",
    "torch.utils.tensorboard",
)


@dataclass(frozen=True)
class Ended:
    """How a call ended."""

    code: int  # the exit code, BUG after a traceback, minus the number of the signal that ended it
    stdout: str
    stderr: str


class Server:
    """The server's process, as the tests see it."""

    def __init__(self, folder: Path):
        self.folder = folder  # for what calls print
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # threads would take address space
        limits = {**dict.fromkeys(names, "1"), "MALLOC_ARENA_MAX": "2", "TRITON_INTERPRET": "1"}
        argv = [sys.executable, __file__]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(argv, env=os.environ | limits, **pipes)

    def run(
        self, folder: Path, argv: list[str], memory: int = MEMORY, seconds: int = SECONDS, fault: list | None = None
    ) -> Ended:
        """Calls the verb argv[0] with the rest of argv in the current folder `folder`.

        fault: what is to befall it, a function of faults.py by name and its arguments.
        """
        asked = {"folder": str(folder), "argv": argv, "memory": memory, "seconds": seconds, "said": str(self.folder)}
        asked["fault"] = fault
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        code = json.loads(self.process.stdout.readline())
        texts = ((self.folder / name).read_text(errors="backslashreplace") for name in ("stdout", "stderr"))
        return Ended(code, *texts)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    import importlib

    import torch

    for name in (*(f"robustok.{verb}" for verb in PRELOADED), *LATER):
        importlib.import_module(name)
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            call(**asked)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def call(folder: str, argv: list[str], memory: int, seconds: int, said: str, fault: list | None) -> None:
    """In the child: runs the verb and ends the process."""
    import importlib
    import resource
    import signal
    import traceback

    os.chdir(folder)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(said) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores in its background
    signal.alarm(max(HANGING, seconds))
    code = BUG
    try:
        if fault is not None:
            import faults

            getattr(faults, fault[0])(*fault[1:])
        from robustok.core.cli import run_verb

        verb, *rest = argv
        code = run_verb(importlib.import_module(f"robustok.{verb}").main, rest)
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
