"""Measuring and recording: interleaved rounds, median ratios, and the machine they were taken on.

Where nothing is timed (`pytest bench` without --benchmark) every variant runs once, so that a row's code is known to
work before the day it is for: rows of a GPU run small on a CPU then, and what they find is not written.
"""

import functools
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from robustok.core.files import written_whole
from robustok.core.machine import described_machine
from robustok.ops.decoding.measured_choice import graph_milliseconds

ROUNDS = {"cpu": 7, "cuda": 20}
WARM_UP_CALLS, WARM_UP_SECONDS = 3, 0.2
MATRIX, COPIED = {"cuda": 8192, "cpu": 64}, {"cuda": 1 << 30, "cpu": 1 << 10}  # sides; float32 numbers
timed = True  # conftest.py: whether this run measures


def measure(variants: dict[str, Callable[[], object]], device: str = "cpu") -> dict[str, list[float]]:
    """Milliseconds of every call, one variant after the other in each round so that drift of the clock hits all."""
    if not timed:
        return {name: [_on_cpu(run)] for name, run in variants.items()}
    take = _on_cuda if device == "cuda" else _on_cpu  # it waits for a call, so that none queues up for the next one
    for run in variants.values():
        begin, calls = time.perf_counter(), 0
        while calls < WARM_UP_CALLS or time.perf_counter() - begin < WARM_UP_SECONDS:
            take(run)
            calls += 1
    timings = {name: [] for name in variants}
    for _ in range(ROUNDS[device]):
        for name, run in variants.items():
            timings[name].append(take(run))
    return timings


def _on_cpu(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * 1e3


def _on_cuda(run: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call with the device's work done, from when all that was asked of it before is done."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    begin = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begin


def replayed_milliseconds(run: Callable[[], object], device: str) -> float:
    """Milliseconds of a call on the GPU inside a replayed graph, where launching it costs the host nothing."""
    return graph_milliseconds(run, torch.device(device)) if device == "cuda" else _on_cpu(run)


@contextmanager
def tf32() -> Iterator[None]:
    """Float32 products and convolutions in TF32, as the authors run theirs."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32, convolutions.allow_tf32 = True, True
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def median(timings: list[float]) -> float:
    return statistics.median(timings)


@functools.cache
def product_rate(device: str = "cuda") -> float:
    """FLOP/s of a float16 product of 8192 x 8192 random numbers on the GPU: what a share of the peak is taken of."""
    dtype, side = (torch.float16 if device == "cuda" else torch.float32), MATRIX[device]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / (median(measure({"product": lambda: a @ b}, device)["product"]) / 1e3)


@functools.cache
def copy_rate(device: str = "cuda") -> float:
    """Bytes/s of a copy of 4 GB on the GPU, counted as read and written."""
    source = torch.empty(COPIED[device], device=device).normal_()
    target = torch.empty_like(source)
    copies = measure({"copy": lambda: target.copy_(source)}, device)["copy"]
    return 2 * source.nbytes / (median(copies) / 1e3)


def ratio(timings: dict[str, list[float]], slower: str, faster: str) -> dict[str, float]:
    """Median of the per-round ratios, with the range from the 10th to the 90th per cent."""
    ratios = sorted(a / b for a, b in zip(timings[slower], timings[faster], strict=True))
    tenth = len(ratios) // 10
    return {"median": statistics.median(ratios), "low": ratios[tenth], "high": ratios[-1 - tenth]}


class Record:
    """The rows of one benchmark file: a goal, what was measured, and every raw timing behind it.

    written: (folder, name of the file) that rows are written to as they come, so that a run that is stopped keeps them:
    results.json, which holds everything, by file, and results.md, the tables. None: they are not written.
    """

    def __init__(self, written: tuple[Path, str] | None = None):
        self.rows: list[dict] = []
        self.written = written

    def add(self, goal: str, what: str, expected: str, found: str, reached: bool | None, **details) -> None:
        """goal: what it is about, in words. reached None: not measured on this machine, `found` says why."""
        row = {"goal": goal, "what": what, "expected": expected, "found": found, "reached": reached}
        self.rows.append(row | details)
        if self.written is not None:
            self._write(*self.written)

    def add_ratio(
        self, goal: str, what: str, least: float, timings: dict[str, list[float]], slower: str, faster: str, **details
    ) -> None:
        """That `faster` takes at most 1 / least of the time of `slower`, with the timings of all."""
        if slower not in timings:
            self.add(goal, what, f">= {least}x", f"{slower}: not there, or it cannot run", None)
            return
        found = ratio(timings, slower, faster)
        text = f"{found['median']:.2f}x ({found['low']:.2f} to {found['high']:.2f})"
        reached = found["median"] >= least
        self.add(goal, what, f">= {least}x", text, reached, ratio=found, milliseconds=timings, **details)

    def add_at_least(self, goal: str, what: str, least: float, found: float, unit: str, **details) -> None:
        """That a figure is at least so large."""
        self.add(goal, what, f">= {least:g} {unit}", f"{found:.4g} {unit}", found >= least, **details)

    def add_at_most(self, goal: str, what: str, most: float, found: float, unit: str, **details) -> None:
        """That a figure is at most so large."""
        self.add(goal, what, f"<= {most:g} {unit}", f"{found:.4g} {unit}", found <= most, **details)

    def add_not_measured(self, goal: str, what: str, why: str) -> None:
        self.add(goal, what, "set in the benchmark", why, None)

    def able(self, goal: str, peers: dict[str, Callable]) -> dict[str, Callable]:
        """Those of the peers that can run here: of each other one a row says why it cannot, and ours is measured."""
        found = {}
        for name, run in peers.items():
            try:
                run()
                found[name] = run
            except Exception as error:  # whatever a package that is not ours raises
                why = " ".join(f"{type(error).__name__}: {error}".replace("|", "/").split())
                self.add_not_measured(goal, name, f"cannot run: {why[:300]}")
        return found

    def _write(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "results.json"
        parts = json.loads(path.read_text()) if path.exists() else {}
        parts[name] = {"machine": described(), "rows": self.rows}
        texts = {path: json.dumps(parts, indent=1), folder / "results.md": tables(parts)}
        for target, text in texts.items():
            with written_whole(target) as temporary:
                temporary.write_text(text)


def tables(parts: dict[str, dict]) -> str:
    """Markdown of what results.json holds."""
    words, lines = {True: "yes", False: "no", None: "not measured"}, []
    for name, part in parts.items():
        lines += [f"## {name}", "", *(f"- {key}: {value}" for key, value in part["machine"].items()), ""]
        lines += ["| goal | what | expected | found | reached |", "|---|---|---|---|---|"]
        for row in part["rows"]:
            cells = (row["goal"], row["what"], row["expected"], row["found"], words[row["reached"]])
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


@functools.cache
def described() -> dict[str, str]:
    """The machine as it was when the first row of this process was written."""
    return describe_machine()


def describe_machine() -> dict[str, str]:
    """Where and with what the rows were taken."""
    found = described_machine() | {
        "threads": str(torch.get_num_threads()),
        "load average": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
        "GPU": "none",
    }
    if torch.cuda.is_available():
        query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem", "--format=csv,noheader"]
        found["GPU"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
        found["measured rates"] = f"{product_rate() / 1e12:.0f} TFLOP/s (float16), {copy_rate() / 1e12:.2f} TB/s (copy)"
    return found
