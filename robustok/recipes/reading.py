"""The files of recipes: a published table each, its rows the recipes. docs/recipes.md shows one, field by field.

What a row does not say is as the table says: source, data, preset, command, and every single field of the conditions;
`about` of both goes together, and so do their notes. A file without rows is one recipe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.declared import declared_values
from ..core.errors import UserError
from ..core.text import some_of
from ..core.yaml_reading import read_yaml
from ..presets import FOLDER, preset_path
from .conditions import Conditions, in_order, read_conditions

SHIPPED = FOLDER / "recipes"
KINDS = ("reconstruction", "generation", "command")


@dataclass(frozen=True)
class Expected:
    """A figure that was published: anything in [low, high] agrees with it. value None: an interval alone."""

    low: float
    high: float
    value: float | None = None
    why: str = ""  # where the interval comes from


@dataclass(frozen=True, eq=False)
class Recipe:
    """Figures that are expected, and all that they depend on, as far as it is known."""

    name: str
    about: str
    source: str
    kind: str
    expected: dict[str, Expected]
    conditions: Conditions = field(default_factory=dict)
    command: str | None = None
    preset: str | None = None
    data: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def unknown(self) -> list[str]:
        """Fields whose values nobody recorded."""
        return [name for name, value in self.conditions.items() if value is None]


@dataclass(frozen=True)
class _Row:
    about: str | None = None
    source: str | None = None
    data: str | None = None
    preset: str | None = None
    command: str | None = None
    conditions: dict = field(default_factory=dict)
    expected: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Table(_Row):
    kind: str
    tolerance: dict = field(default_factory=dict)
    rows: dict = field(default_factory=dict)


@dataclass(frozen=True)
class _Tolerance:
    why: str
    absolute: float = 0.0
    relative: float = 0.0


def shipped() -> list[str]:
    """Names of the tables that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_recipe(name: str | Path) -> Recipe:
    """The recipe TABLE/ROW, or that of a table with one row. Raises UserError as `read_recipes`, and for several."""
    found = read_recipes(name)
    if len(found) > 1:
        raise UserError(f"{name} has {len(found)} recipes: name one of them, as {some_of(list(found), 20)}")
    return next(iter(found.values()))


def read_recipes(name: str | Path) -> dict[str, Recipe]:
    """The recipes of TABLE, or the one of TABLE/ROW, by name; TABLE is a shipped one, or a YAML file.

    Raises UserError for what is missing or damaged, naming file, row and field.
    """
    text = str(name)
    for table, row in ((text, None), tuple(text.rpartition("/")[::2])):
        file = SHIPPED / f"{table}.yaml" if table in shipped() else Path(table)
        if table and file.is_file():
            found = _read_table(file, table)
            if row is None:
                return found
            if f"{table}/{row}" not in found:
                raise UserError(f"{table} has no recipe {row!r}; it has {some_of(list(found), 20)}")
            return {f"{table}/{row}": found[f"{table}/{row}"]}
    raise UserError(f"there is no recipe {text!r}; shipped tables are {', '.join(shipped())}, else give a YAML file")


def _read_table(file: Path, name: str) -> dict[str, Recipe]:
    written = read_yaml(file, "docs/recipes.md says what a recipe holds")
    values = declared_values(_Table, written, name)
    table = _Table(**{key: value for key, value in values.items() if value is not None})
    if table.kind not in KINDS:
        raise UserError(f"{name}, kind: found {table.kind!r}, expected one of {', '.join(KINDS)}")
    tolerances = {
        figure: _tolerance(given, f"{name}, tolerance, {figure}") for figure, given in table.tolerance.items()
    }
    if not table.rows:
        return {name: _recipe(table, _Row(), tolerances, name)}
    if table.expected:
        raise UserError(f"{name}: expected figures stand in the rows of a table; found some beside the rows")
    recipes = {}
    for row, given in table.rows.items():
        where = f"{name}/{row}"
        if "/" in str(row):
            raise UserError(f"{where}: found a stroke in the name {row!r} of a row; expected a name without")
        values = declared_values(_Row, given, where)
        recipes[where] = _recipe(table, _Row(**values), tolerances, where)
    return recipes


def _recipe(table: _Table, row: _Row, tolerances: Mapping[str, _Tolerance], where: str) -> Recipe:
    """One row of a table: what both say is taken from the row."""
    texts = {name: getattr(row, name) or getattr(table, name) for name in ("source", "data", "preset", "command")}
    expected = row.expected or table.expected
    about = ": ".join(text for text in (table.about, row.about) if text)
    if not about or not texts["source"] or not expected:
        missing = "about" if not about else "source" if not texts["source"] else "expected"
        raise UserError(
            f"{where}, {missing}: is missing; expected what the figures are of, their source and themselves"
        )
    if texts["preset"] is not None:
        _check_preset(texts["preset"], where)
    if (table.kind == "command") != (texts["command"] is not None):
        raise UserError(f"{where}: a recipe names a `command` if and only if its kind is command")
    figures = {name: _expected(given, tolerances.get(name), f"{where}, {name}") for name, given in expected.items()}
    return Recipe(
        name=where,
        about=about,
        kind=table.kind,
        expected=figures,
        conditions=in_order(read_conditions(table.conditions, where) | read_conditions(row.conditions, where)),
        notes=tuple(map(str, [*table.notes, *row.notes])),
        **texts,
    )


def _check_preset(name: str, where: str) -> None:
    try:
        preset_path(name)
    except UserError as error:
        raise UserError(f"{where}, preset: {error}") from None


def _tolerance(given: Any, where: str) -> _Tolerance:
    found = _Tolerance(**declared_values(_Tolerance, given, where))
    if not (0 <= found.absolute < math.inf and 0 <= found.relative < math.inf):
        raise UserError(f"{where}: found {found.absolute} and {found.relative}, expected numbers from 0")
    return found


def _expected(given: Any, tolerance: _Tolerance | None, where: str) -> Expected:
    """A number with the table's tolerance, or a mapping with an interval of its own."""
    if isinstance(given, dict):
        found = Expected(**declared_values(Expected, given, where))
    elif isinstance(given, bool) or not isinstance(given, int | float):
        raise UserError(f"{where}: found {given!r:.60}, expected a number, or an interval {{value, low, high, why}}")
    elif tolerance is None:
        raise UserError(f"{where}: the table has no tolerance for it; give one, or an interval {{value, low, high}}")
    else:
        half = tolerance.absolute + tolerance.relative * abs(given)
        found = Expected(given - half, given + half, given, tolerance.why)
    value = found.low if found.value is None else found.value
    if not -math.inf < found.low <= value <= found.high < math.inf:
        said = f"{found.value} in [{found.low}, {found.high}]"
        raise UserError(f"{where}: found {said}, expected a finite interval with the value in it")
    return found
