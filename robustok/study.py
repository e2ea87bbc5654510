"""A study: runs of `robustok.train` that differ in named settings, and what their figures say together.

    python -m robustok.study                             all rows of configs/study/emoji.yaml, and a page on them
    python -m robustok.study --rows none --seeds 0       one row, beside the figures that are expected of it

The same command again goes on where it was stopped. Exit code 0: figures were found, and lie in the intervals that are
expected where rows were named. 1: some do not.
"""

import argparse
import sys
from pathlib import Path

from .core.cli import run_verb
from .core.options import positive, seed_number, verb_parser
from .core.paths import check_output
from .core.text import say
from .presets import FOLDER


def main(argv: list[str]) -> int:
    """Runs the rows; returns the exit code."""
    return _run(_parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("study", __doc__)
    file, runs = FOLDER / "study/emoji.yaml", Path("runs/study")
    parser.add_argument("--file", type=Path, default=file, help="the study (default: the one on emoji)")
    parser.add_argument("--rows", nargs="+", help="rows to run and to compare with what is expected (default: all)")
    parser.add_argument("--seeds", nargs="+", type=seed_number, help="seeds to run (default: those of each row)")
    parser.add_argument("--jobs", type=positive, default=2, help="runs at a time, which share the cores (default: 2)")
    parser.add_argument("--runs", type=Path, default=runs, help="folder of the runs (default: runs/study)")
    parser.add_argument("--output", type=Path, help="folder for the page of a whole study (default: RUNS/page)")
    parser.add_argument("--recipes", default="study", help="what is expected: a table of recipes (default: study)")
    return parser


def _run(options: argparse.Namespace) -> int:
    from .recipes.reading import read_recipe
    from .studies.measured import Findings, read_run
    from .studies.plan import read_study
    from .studies.running import Runner

    study, output = read_study(options.file), options.output or options.runs / "page"
    chosen = list(study.runs(options.rows or (), options.seeds or ()))
    is_whole = not (options.rows or options.seeds)
    if is_whole:
        study.check_spread()
        check_output("--output", output)
    recipes = [] if is_whole else [read_recipe(f"{options.recipes}/{row.name}") for row, _ in chosen]
    check_output("--runs", options.runs)
    Runner(study, options.runs, options.jobs).run(chosen)
    if is_whole:
        _write(Findings(study, options.runs), output)
        return 0
    return _compare([read_run(row, seed, options.runs) for row, seed in chosen], recipes)


def _compare(runs: list, recipes: list) -> int:
    """Shows each run beside its recipe; returns the exit code."""
    from .recipes.page import show_comparison
    from .studies.recipes import compare_run

    inside = True
    for run, recipe in zip(runs, recipes, strict=True):
        comparison = compare_run(run, recipe)
        say(f"{run.name}:")
        show_comparison(recipe, comparison)
        inside &= comparison.is_inside
    return 0 if inside else 1


def _write(found, folder: Path) -> None:
    """The page of a whole study, its figures, and what is expected of a row that is run again."""
    from .studies.claims import NONE, RECIPE
    from .studies.latents import latent_table
    from .studies.page import write_pages
    from .studies.recipes import write_recipes
    from .studies.running import machines

    compared = [run for (row, seed), run in found.runs.items() if row in (NONE, RECIPE) and seed == 0]
    latents = {run: latent_table(run.folder) for run in compared}
    write_pages(found, machines(found.folder), latents, folder)
    write_recipes(found, folder / "recipes.yaml")
    say(f"written: {folder / 'README.md'}, {folder / 'study.html'}, {folder / 'recipes.yaml'}")


if __name__ == "__main__":
    sys.exit(run_verb(main))
