"""`make gpu-report`: every goal of a GPU and the tests that need one, in slices of at most eight minutes.

    python bench/report.py --output FOLDER [--wheels FOLDER] [--seconds LIMIT] [SLICE ...]

For a machine with a GPU, torch, Triton and pytest, and nothing else: the package is not installed, its extensions are
built in place where they are missing and a compiler is there, and peers come from a folder of wheels, which are
unpacked for the time of the report. What is missing is skipped, and its rows say so.

A slice is a process of its own that is stopped when its time is up; the rows that it measured stay. Started again with
the same output folder, at the same commit and on the same GPU, the report goes on with the slices that were not begun,
then with those that were stopped. The folder then holds results.json and results.md (rows), report.md (how each slice
ended), slices.json and log.txt.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from robustok.core.machine import commit  # noqa: E402

SLICE_SECONDS = 450
LEAST_SECONDS = 60  # that a slice is begun for
WHOLE_RUNS = "bench/bench_whole_runs.py"
SAMPLING = "bench/bench_sampling_gpu.py"
TRAINING = "bench/bench_training_gpu.py"
EVALUATION = "bench/bench_evaluation.py"
TOKENIZERS = "bench/bench_tokenizers.py"
# Arguments of pytest by the name of the slice, the most important first. Rows take --benchmark and where to write.
ROWS = {
    "operations": ["bench/bench_ops_gpu.py"],
    "attention": [SAMPLING, "-k", "attention"],
    "sampling-rar-l": [SAMPLING, "-k", "test_sampling and rar-l"],
    "latency": [SAMPLING, "-k", "latency"],
    "linear-layers": [SAMPLING, "-k", "linear_layers"],
    "sampling-rar-b": [SAMPLING, "-k", "test_sampling and rar-b"],
    "pairs": [SAMPLING, "-k", "pairs"],
    "features": [EVALUATION, "-k", "features_on_gpu"],
    "recall": [EVALUATION, "-k", "recall"],
    "decoding": [TOKENIZERS, "-k", "token_decode"],
    "training-networks": [TRAINING, "-k", "networks"],
    "training-tokenizer": [TRAINING, "-k", "tokenizer_step"],
    "training-rar-l": [TRAINING, "-k", "rar-l"],
    "training-rar-b": [TRAINING, "-k", "rar-b"],
    "pfid": [WHOLE_RUNS, "-k", "test_pfid"],
    "gfid-rar-l": [WHOLE_RUNS, "-k", "gfid and rar-l"],
    "gfid-rar-b": [WHOLE_RUNS, "-k", "gfid and rar-b"],
    "frechet": [EVALUATION, "-k", "test_fid and cuda"],
    "pfid-all-images": [WHOLE_RUNS, "-k", "test_all_images"],
    "other-generators": ["bench/bench_sampling.py", "bench/bench_flow.py", "-k", "gpu"],
    "other-tokenizers": [TOKENIZERS, "-k", "compiled_decoder"],
}
TESTS = {
    "tests-operations": ["-m", "gpu", "tests/ops"],
    "tests-others": ["-m", "gpu", "tests", "--ignore", "tests/ops"],
}
SLICES = {**ROWS, **TESTS}


def command_of(name: str, output: Path) -> list[str]:
    """What runs a slice."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SLICES[name]]
    return command + (["--benchmark", "--output", str(output), "--slice", name] if name in ROWS else [])


# A process that waits until the report is gone, however it ended, for that holds the other end of its input.
WATCH = "import os, signal, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), signal.SIGKILL)"


def run(command: list[str], log: Path, environment: dict[str, str], limit: float) -> str:
    """How a process ended, in words; it and all that it started end after `limit` seconds, or with this process, also
    where that is killed."""
    with log.open("a") as out:
        print(f"\n$ {' '.join(command)}", file=out, flush=True)
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, env=environment, start_new_session=True)
        watching = [sys.executable, "-c", WATCH, str(process.pid)]
        watch = subprocess.Popen(watching, stdin=subprocess.PIPE, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s"
        finally:
            watch.kill()
            watch.wait()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return {0: "passed", 5: "nothing to run"}.get(code, f"failed ({code})")


def place() -> str:
    """Commit and GPU: what was taken at another place is no part of this report."""
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        cards = ", ".join(subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[:-1])
    except FileNotFoundError:
        cards = ""
    return f"{commit()} on {cards or 'no GPU'}"


class State:
    """How the slices of an output folder ended so far, at this place."""

    def __init__(self, folder: Path):
        self.folder, self.path, self.place = folder, folder / "slices.json", place()
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.slices: dict[str, dict] = known["slices"] if known.get("place") == self.place else {}

    def is_finished(self, name: str) -> bool:
        return name in self.slices and not self.slices[name]["result"].startswith("stopped")

    def least_seconds(self, name: str) -> float:
        """For which it is worth beginning: a slice that was stopped would else lose rows that it has."""
        return max(LEAST_SECONDS, self.slices.get(name, {"seconds": 0})["seconds"])

    def add(self, name: str, result: str, seconds: float) -> None:
        """Writes it down, with the page that a person reads."""
        self.slices[name] = {"result": result, "seconds": round(seconds)}
        self.path.write_text(json.dumps({"place": self.place, "slices": self.slices}, indent=1))
        lines = [f"- {self.place}", "", "| slice | seconds | result |", "|---|---|---|"]
        lines += [f"| {name} | {found['seconds']} | {found['result']} |" for name, found in self.slices.items()]
        (self.folder / "report.md").write_text("\n".join([*lines, "", "Rows: results.md; output: log.txt", ""]))
        print(f"{name}: {result}, {seconds:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser("bench/report.py", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--wheels", type=Path, help="folder of wheels of peers, and of what else is missing")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after how many it ends (default: never)")
    parser.add_argument("slices", nargs="*", metavar="SLICE", help=f"which (default all): {', '.join(SLICES)}")
    options = parser.parse_args()
    if unknown := [name for name in options.slices if name not in SLICES]:
        parser.error(f"found {', '.join(unknown)}, expected slices out of {', '.join(SLICES)}")
    end, output = time.monotonic() + options.seconds, options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    state, log = State(output), output / "log.txt"
    with tempfile.TemporaryDirectory() as unpacked:
        for wheel in sorted(options.wheels.glob("*.whl")) if options.wheels else ():
            zipfile.ZipFile(wheel).extractall(unpacked)
        given = [path for path in (os.environ.get("PYTHONPATH"),) if path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), unpacked, *given])}
        environment |= {"PYTHONUNBUFFERED": "1"}
        if find_spec("robustok._C") is None:
            begin = time.monotonic()
            done = run([sys.executable, "setup.py", "build_ext", "--inplace"], log, environment, SLICE_SECONDS)
            state.add("build", done, time.monotonic() - begin)
        for name in sorted(options.slices or SLICES, key=lambda name: name in state.slices):
            begin = time.monotonic()
            if not state.is_finished(name) and end - begin >= state.least_seconds(name):
                done = run(command_of(name, output), log, environment, min(SLICE_SECONDS, end - begin))
                state.add(name, done, time.monotonic() - begin)
    return int(any(found["result"] not in ("passed", "nothing to run") for found in state.slices.values()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and what runs with it
    sys.exit(main())
