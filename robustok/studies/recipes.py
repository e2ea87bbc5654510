"""A study's rows as recipes: what one more run of a row is expected to find (docs/recipes.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..core.files import write_bytes
from ..core.nested import flattened
from ..recipes.comparing import Comparison, compare
from ..recipes.found import read_found
from ..recipes.reading import Recipe
from .measured import Findings, Measured

FIGURES = ("tokenizer.psnr", "tokenizer.rfd", "tokenizer.pfd", "generator.gfd", "post.gfd", "generator.gfd_filters")
NOTE = (
    "Intervals hold 95 % of the runs of a row with another seed or on another machine, by the spread of all rows that "
    "have several seeds."
)


def write_recipes(found: Findings, file: Path) -> None:
    """Writes the table: a recipe a row."""
    rows = {}
    for name, row in found.study.rows.items():
        runs = [run for run in found.runs.values() if run.row is row]
        if runs:
            seeds = "" if row.seeds == found.study.seeds else f" --seeds {' '.join(map(str, row.seeds))}"
            rows[name] = {
                "about": row.says,
                "command": f"python -m robustok.study --rows {' '.join([*_before(found, name), name])}{seeds}",
                "conditions": {"training": dict(flattened(row.settings))},
                "expected": {path: _expected(found, path, runs) for path in FIGURES},
            }
    table = {
        "about": f"the study on {found.study.name}",
        "source": "docs/study/README.md",
        "kind": "command",
        "data": str(found.study.settings.get("data", {}).get("root", "digits")),
        "notes": [NOTE],
        "rows": rows,
    }
    head = "# What one more run of a row of a study is expected to find; written by `python -m robustok.study`.\n"
    write_bytes(file, (head + yaml.safe_dump(table, sort_keys=False, width=120)).encode())


def compare_run(run: Measured, recipe: Recipe) -> Comparison:
    """A run beside the recipe of its row."""
    found = read_found(run.folder)
    return compare(recipe, found.figures, found.conditions)


def _expected(found: Findings, path: str, runs: list[Measured]) -> dict[str, Any]:
    interval = found.noise(path).of_rerun([run.figure(path) for run in runs])
    return {name: float(f"{value:.4g}") for name, value in interval._asdict().items()}


def _before(found: Findings, name: str) -> list[str]:
    """The rows whose models a row takes."""
    row = found.study.rows[name]
    return list(dict.fromkeys(other for other in (row.tokenizer, row.generator) if other))
