"""Measuring and recording: interleaved rounds, median ratios, and the machine they were taken on."""

import functools
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

from robustok.core.machine import described_machine

ROUNDS = {"cpu": 7, "cuda": 20}
WARM_UP_CALLS, WARM_UP_SECONDS = 3, 0.2


def measure(variants: dict[str, Callable[[], object]], device: str = "cpu") -> dict[str, list[float]]:
    """Milliseconds of every call, one variant after the other in each round so that drift of the clock hits all."""
    for run in variants.values():
        begin, calls = time.perf_counter(), 0
        while calls < WARM_UP_CALLS or time.perf_counter() - begin < WARM_UP_SECONDS:
            run()
            calls += 1
    timings = {name: [] for name in variants}
    for _ in range(ROUNDS[device]):
        for name, run in variants.items():
            timings[name].append(_on_cuda(run) if device == "cuda" else _on_cpu(run))
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


@functools.cache
def product_rate() -> float:
    """FLOP/s of a float16 product of 8192 x 8192 random numbers on the GPU: what a share of the peak is taken of."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    return 2 * 8192**3 / (statistics.median(measure({"product": lambda: a @ b}, "cuda")["product"]) / 1e3)


@functools.cache
def copy_rate() -> float:
    """Bytes/s of a copy of 4 GB on the GPU, counted as read and written."""
    source = torch.empty(1 << 30, device="cuda").normal_()
    target = torch.empty_like(source)
    copies = measure({"copy": lambda: target.copy_(source)}, "cuda")["copy"]
    return 2 * source.nbytes / (statistics.median(copies) / 1e3)


def ratio(timings: dict[str, list[float]], slower: str, faster: str) -> dict[str, float]:
    """Median of the per-round ratios, with the range from the 10th to the 90th per cent."""
    ratios = sorted(a / b for a, b in zip(timings[slower], timings[faster], strict=True))
    tenth = len(ratios) // 10
    return {"median": statistics.median(ratios), "low": ratios[tenth], "high": ratios[-1 - tenth]}


class Record:
    """The rows of one benchmark file: a goal, what was measured, and every raw timing behind it."""

    def __init__(self):
        self.rows: list[dict] = []

    def add(self, goal: str, what: str, expected: str, found: str, reached: bool | None, **details) -> None:
        """goal: what it is about, in words. reached None: not measured on this machine, `found` says why."""
        row = {"goal": goal, "what": what, "expected": expected, "found": found, "reached": reached}
        self.rows.append(row | details)

    def add_ratio(
        self, goal: str, what: str, least: float, timings: dict[str, list[float]], slower: str, faster: str, **details
    ) -> None:
        """That `faster` takes at most 1 / least of the time of `slower`, with the timings of all."""
        found = ratio(timings, slower, faster)
        text = f"{found['median']:.2f}x ({found['low']:.2f} to {found['high']:.2f})"
        reached = found["median"] >= least
        self.add(goal, what, f">= {least}x", text, reached, ratio=found, milliseconds=timings, **details)

    def add_not_measured(self, goal: str, what: str, why: str) -> None:
        self.add(goal, what, "set in the benchmark", why, None)

    def write(self, folder: Path, name: str) -> None:
        """Writes NAME.json, which holds everything, and NAME.md, the table."""
        folder.mkdir(parents=True, exist_ok=True)
        machine = describe_machine()
        (folder / f"{name}.json").write_text(json.dumps({"machine": machine, "rows": self.rows}, indent=1))
        (folder / f"{name}.md").write_text(self.table(machine))

    def table(self, machine: dict) -> str:
        lines = [f"- {key}: {value}" for key, value in machine.items()]
        lines += ["", "| goal | what | expected | found | reached |", "|---|---|---|---|---|"]
        words = {True: "yes", False: "no", None: "not measured"}
        for row in self.rows:
            cells = (row["goal"], row["what"], row["expected"], row["found"], words[row["reached"]])
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


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
