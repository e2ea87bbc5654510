"""Recipes on the terminal: the list, one of them, and one beside what was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.text import say
from ..report.results import print_table
from .comparing import Comparison
from .reading import Expected, Recipe

HOW = "evaluate recipe TABLE/RECIPE shows one and how it is measured"
NOT_KNOWN = "not known"
VERDICTS = {True: "inside", False: "OUTSIDE", None: "not measured"}


def show_tables(tables: Mapping[str, Sequence[Recipe]]) -> None:
    """The tables that there are, a line each."""
    rows = []
    for name, recipes in tables.items():
        inside = ", ".join(recipe.name.removeprefix(f"{name}/") for recipe in recipes if recipe.name != name)
        figures = dict.fromkeys(figure for recipe in recipes for figure in recipe.expected)
        rows.append((name, ", ".join(figures), inside))
    print_table(rows, ("table", "figures", "recipes"), HOW)


def show_list(recipes: Iterable[Recipe]) -> None:
    """Recipes, a line each."""
    rows = [(recipe.name, recipe.about, _figures(recipe)) for recipe in recipes]
    print_table(rows, ("recipe", "what it is", "expected"), HOW)


def show_recipe(recipe: Recipe, command: str) -> None:
    """All that a recipe says; `command` measures it."""
    texts = {"source": recipe.source, "data": recipe.data, "preset": recipe.preset}
    say("\n".join([f"{recipe.name}: {recipe.about}", *(f"{name}: {text}" for name, text in texts.items() if text)]))
    for name, expected in recipe.expected.items():
        say(f"expected: {name} {in_words(expected)}{f' ({expected.why})' if expected.why else ''}")
    for name, value in recipe.conditions.items():
        say(f"{name}: {_value(value)}")
    _say_notes(recipe.notes)
    say(f"measured by: {command}")


def show_comparison(recipe: Recipe, comparison: Comparison) -> None:
    """Expected and found, and the fields that differ."""
    rows = []
    for judged in comparison.figures:
        found = "-" if judged.found is None else f"{judged.found:.4g}"
        rows.append((judged.name, in_words(judged.expected), found, VERDICTS[judged.is_inside]))
    say(f"{recipe.name}: {recipe.about} ({recipe.source})")
    print_table(rows, ("figure", "expected", "found", ""))
    for field, expected, found in comparison.differences:
        say(f"differs: {field}: recipe {_value(expected)}, found {_value(found)}")
    if not comparison.differences:
        say("no field differs that both sides know")
    _say_fields("not recorded with the figures", comparison.unrecorded)
    _say_fields("not known of the recipe", recipe.unknown)
    _say_notes(recipe.notes)


def in_words(expected: Expected) -> str:
    """ "1.83 +- 0.042", or "0.43 (0.41 to 0.46)" where the value is not in the middle, or "0.5 to 0.9"."""
    if expected.value is None:
        return f"{expected.low:.4g} to {expected.high:.4g}"
    below, above = expected.value - expected.low, expected.high - expected.value
    if abs(above - below) <= 1e-6 * abs(above):
        return f"{expected.value:.4g} +- {above:.2g}"
    return f"{expected.value:.4g} ({expected.low:.4g} to {expected.high:.4g})"


def _figures(recipe: Recipe) -> str:
    return ", ".join(f"{name} {in_words(expected)}" for name, expected in recipe.expected.items())


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return NOT_KNOWN if value is None else str(value)


def _say_fields(what: str, names: Sequence[str]) -> None:
    if names:
        say(f"{what}: {', '.join(names)}")


def _say_notes(notes: Iterable[str]) -> None:
    for note in notes:
        say(f"note: {note}")
