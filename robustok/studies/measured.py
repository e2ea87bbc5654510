"""What the finished runs of a study found: their figures, what they cost, and what they logged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import getitem
from pathlib import Path
from typing import Any

from ..core.files import read_record
from ..core.parsing import parsing
from ..job.final_evaluation import METRICS
from ..presets import read_settings
from ..training.run import read_log
from .intervals import SeedNoise, by_row
from .plan import TRAINED, Study, StudyRow, run_name


@dataclass(frozen=True, eq=False)
class Measured:
    """A finished run."""

    row: StudyRow
    seed: int
    folder: Path
    metrics: Mapping[str, Any]

    @property
    def name(self) -> str:
        return run_name(self.row, self.seed)

    def figure(self, path: str) -> float:
        """A figure by its place in metrics.json: "tokenizer.pfd", "post.gfd"."""
        return float(reduce(getitem, path.split("."), self.metrics))

    @property
    def seconds(self) -> float:
        """Of all its stages."""
        return sum(self.metrics["seconds"].values())

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the terms of the loss."""
        return read_settings(self.folder / "config.yaml")["losses"]

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        return read_log(self.folder / "log.jsonl")


class Findings:
    """The finished runs of a study, by (row, seed)."""

    def __init__(self, study: Study, runs: Path):
        self.study, self.folder = study, runs
        there = [(row, seed) for row, seed in study.runs() if (runs / run_name(row, seed) / METRICS).is_file()]
        self.runs = {(row.name, seed): read_run(row, seed, runs) for row, seed in there}

    def of(self, parts: Iterable[str]) -> list[Measured]:
        """Those of the rows of some parts."""
        return [run for run in self.runs.values() if run.row.part in parts]

    def values(self, path: str, parts: Iterable[str] = TRAINED) -> dict[str, list[float]]:
        """Row -> a figure of each of its seeds."""
        return by_row({(run.row.name, run.seed): run.figure(path) for run in self.of(parts)})

    def noise(self, path: str) -> SeedNoise:
        """The spread of a figure from seed to seed."""
        return SeedNoise.pooled(self.values(path).values())


def read_run(row: StudyRow, seed: int, runs: Path) -> Measured:
    """A finished run. Raises UserError for one that is not finished, or damaged."""
    folder = runs / run_name(row, seed)
    with parsing(folder / METRICS, "figures of a run", "remove the run and run its row again"):
        return Measured(row, seed, folder, read_record(folder / METRICS))
