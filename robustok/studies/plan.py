"""What a study runs: rows of settings, each with one or more seeds, out of one file (configs/study/NAME.yaml)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.parsing import parsing
from ..core.yaml_reading import read_yaml
from ..presets import FOLDER, overlaid

JUDGE = "judge"  # the run whose classifier all rows look through and are judged by
MODELS = ("tokenizer", "generator")
TRAINED = ("perturbation", "reviewers")  # parts whose rows train a tokenizer and a generator each
PARTS = (*TRAINED, "post-training")


@dataclass(frozen=True)
class StudyRow:
    """Runs that differ from the study's others by `settings`; one for each seed."""

    name: str
    part: str  # one of PARTS: the question that it belongs to
    says: str  # what it is, in words
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    tokenizer: str | None = None  # the row whose tokenizer it takes, of the same seed; None: trained
    generator: str | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages of `robustok.train`; all of them where it trains its own tokenizer."""
        if self.tokenizer is None:
            return ("all",)
        trained = () if self.generator else ("generator",)
        return ("tokens", *trained, "pairs", "post", "evaluate")


@dataclass(frozen=True)
class Study:
    """A file's rows, in order, and the settings of them all."""

    name: str
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]  # of a row that does not say its own
    rows: Mapping[str, StudyRow]

    def runs(self, rows: Collection[str] = (), seeds: Sequence[int] = ()) -> Iterator[tuple[StudyRow, int]]:
        """Rows with their seeds, seed by seed. rows: which; none: all. seeds: for all of them; none: each row's own.

        Raises: UserError for a row that there is not.
        """
        if unknown := sorted(set(rows) - set(self.rows)):
            raise UserError(f"--rows: found {', '.join(unknown)}, expected some of {', '.join(self.rows)}")
        chosen = [row for row in self.rows.values() if not rows or row.name in rows]
        for seed in dict.fromkeys(seeds) or sorted({seed for row in chosen for seed in row.seeds}):
            yield from ((row, seed) for row in chosen if seeds or seed in row.seeds)

    def check_spread(self) -> None:
        """Raises UserError where no row tells the spread from seed to seed, which the page of a whole study needs."""
        if not any(row.part in TRAINED and len(row.seeds) > 1 for row in self.rows.values()):
            raise UserError(
                f"{self.name}: no row of the parts {' and '.join(TRAINED)} has two seeds: the page of the study would "
                "have no intervals; give one two seeds, or run single rows with --rows"
            )

    def settings_of(self, row: StudyRow, seed: int, runs: Path) -> dict[str, Any]:
        """The settings of a run, as a file for `robustok.train --config`. runs: the folder of the study's runs."""
        start: dict[str, Any] = {"classifier": str(runs / JUDGE / "classifier")}
        for model in MODELS:
            if (other := getattr(row, model)) is not None:
                start[model] = str(runs / run_name(self.rows[other], seed) / model)
        own = {"name": run_name(row, seed), "runs": str(runs), "seed": seed, "start": start}
        return overlaid(overlaid(self.settings, row.settings), own)

    def settings_of_judge(self, runs: Path) -> dict[str, Any]:
        """The settings of the run that trains the classifier."""
        return overlaid(self.settings, {"name": JUDGE, "runs": str(runs)})


def run_name(row: StudyRow, seed: int) -> str:
    """Folder of a run among the study's."""
    return f"{row.name}-{seed}"


def read_study(path: Path) -> Study:
    """The study of a file: `settings`, `seeds`, and `rows` by name (see StudyRow).

    Raises: UserError for a file that is missing or is none, naming what is wrong with it.
    """
    written = read_yaml(path, f"the studies are in {FOLDER / 'study'}")
    with parsing(path, "a study", "it has settings, seeds and rows, as those in configs/study/"):
        if not isinstance(written, Mapping) or set(written) != {"settings", "seeds", "rows"}:
            raise ValueError(f"expected settings, seeds and rows, found {written!r:.80}")
        seeds = {"seeds": written["seeds"]}
        rows = {name: StudyRow(name, **seeds | values) for name, values in written["rows"].items()}
        if wrong := [seed for row in rows.values() for seed in row.seeds if type(seed) is not int or seed < 0]:
            raise ValueError(f"seeds are whole numbers from 0 on, found {wrong[0]!r}")
        if twice := [row for row in rows.values() if len(set(row.seeds)) < len(row.seeds)]:
            raise ValueError(f"rows.{twice[0].name}: each seed is run once, found {twice[0].seeds!r}")
    for row in rows.values():
        if row.part not in PARTS:
            raise UserError(f"{path}, rows.{row.name}.part: found {row.part!r}, expected one of {', '.join(PARTS)}")
        for model in MODELS:
            if (other := getattr(row, model)) not in (None, *rows) or other == row.name:
                raise UserError(f"{path}, rows.{row.name}.{model}: found {other!r}, expected another row")
    return Study(path.stem, written["settings"], written["seeds"], rows)
