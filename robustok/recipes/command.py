"""`python -m robustok.evaluate recipe`: shows recipes, measures them by the other commands, or compares figures."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path

from ..core.errors import UserError
from ..core.options import SAMPLING_NAMES
from ..core.text import say
from .comparing import compare
from .found import METRICS, read_found
from .page import show_comparison, show_list, show_recipe, show_tables
from .reading import Recipe, read_recipe, read_recipes, shipped

NEEDS = {  # files that a recipe of each kind is measured with
    "reconstruction": ("tokenizer", "images"),
    "generation": ("generator", "tokenizer", "reference"),
    "command": (),
}


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes beside the network of features, the device and --output."""
    add = parser.add_argument
    add(
        "name",
        nargs="?",
        help="TABLE/ROW, or a TABLE: a shipped one or a YAML file (default: lists all)",
    )
    add("--figures", help="figures that were measured before: a metrics.json, or the folder of a run or an --output")
    add("--entry", help="which tokenizer or decoder of --figures, where it holds several")
    add("--tokenizer", help="its file, to measure the recipe")
    add("--generator", help="its file, for figures of generated images")
    add("--images", help="images to give back, for figures of reconstructions")
    add("--reference", help="images or saved statistics that generated images are compared with")


def run_recipe(options: argparse.Namespace, evaluate: Callable[[list[str]], object]) -> int:
    """Runs the command with its parsed options; evaluate(arguments) runs another one. 0: inside, 1: outside.

    Raises UserError for a recipe that is missing or damaged, files that are missing, and figures that are not its own.
    """
    given = [name for name in ("figures", "tokenizer", "generator", "images", "reference") if getattr(options, name)]
    if not given:
        _show(options.name)
        return 0
    if options.name is None:
        raise UserError(f"--{given[0]}: name the recipe that is meant; `evaluate recipe` lists them")
    recipe = read_recipe(options.name)
    if options.figures is None:
        measure(recipe, options, evaluate)
    elif len(given) > 1:
        raise UserError(f"--figures and --{given[1]}: give figures that were measured, or the files to measure with")
    found = read_found(options.figures or Path(options.output) / METRICS, options.entry)
    comparison = compare(recipe, found.figures, found.conditions)
    show_comparison(recipe, comparison)
    return 0 if comparison.is_inside else 1


def measure(recipe: Recipe, options: argparse.Namespace, evaluate: Callable[[list[str]], object]) -> None:
    """Measures a recipe through the command that measures such figures, which writes metrics.json to --output."""
    if recipe.kind == "command":
        raise UserError(f"{recipe.name} is measured by `{recipe.command}`; then give what it wrote as --figures")
    files = {name: getattr(options, name) for name in NEEDS[recipe.kind]}
    if missing := [f"--{name}" for name, path in files.items() if path is None]:
        raise UserError(f"{recipe.name}: to measure it give {' and '.join(missing)}, too")
    arguments = measuring(recipe, **files)
    for name in ("network", "weights", "mode", "device", "output"):
        arguments += [f"--{name}", str(getattr(options, name))]
    say(f"python -m robustok.evaluate {shlex.join(arguments)}")
    evaluate(arguments)


def measuring(recipe: Recipe, **files: str) -> list[str]:
    """Arguments of evaluate that measure a recipe under its fields, as far as they are options; files as NEEDS says."""
    fields = {name: _option(value) for name, value in recipe.conditions.items() if value is not None}
    if recipe.kind == "reconstruction":
        perturbed = any(name.startswith("p") and name.endswith(("fid", "fd")) for name in recipe.expected)
        arguments = ["tokenizer", files["tokenizer"], "--images", files["images"]]
        arguments += ["--pfid", "full" if perturbed else "none"]
        options = {"perturbation.seed": "seed"}
    else:
        arguments = ["generator", files["generator"], "--tokenizer", files["tokenizer"]]
        arguments += ["--reference", files["reference"]]
        options = {f"sampling.{name}": name for name in (*SAMPLING_NAMES, "seed")}
        options |= {"samples.per_class": "per_class", "generator.precision": "precision"}
    options["tokenizer.precision"] = "tokenizer_precision"
    for field, option in options.items():
        if field in fields:
            arguments += [f"--{option}", fields[field]]
    if fields.get("tokenizer.execution") == "compiled":
        arguments.append("--compile")
    return arguments


def _show(name: str | None) -> None:
    """All tables, the recipes of one, or a recipe alone."""
    if name is None:
        show_tables({table: list(read_recipes(table).values()) for table in shipped()})
        return
    recipes = list(read_recipes(name).values())
    if len(recipes) > 1:
        show_list(recipes)
        return
    show_recipe(recipes[0], recipes[0].command or f"python -m robustok.evaluate {_example(recipes[0])}")


def _example(recipe: Recipe) -> str:
    """Those arguments with the names of the recipe's files, and words in capitals where it has none."""
    files = {name: recipe.conditions.get(f"{name}.file") or name.upper() for name in NEEDS[recipe.kind]}
    return shlex.join(measuring(recipe, **files))


def _option(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
