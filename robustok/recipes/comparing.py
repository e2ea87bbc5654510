"""A recipe beside what was found: which figures lie outside, and which fields may be why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..core.errors import UserError
from ..core.nested import flattened
from ..core.text import some_of
from .conditions import same
from .reading import Expected, Recipe


class Judged(NamedTuple):
    """A figure of a recipe beside the one found; None: it was not measured."""

    name: str
    expected: Expected
    found: float | None

    @property
    def is_inside(self) -> bool | None:
        """Whether it agrees; None where it was not measured. NaN does not."""
        return None if self.found is None else self.expected.low <= self.found <= self.expected.high


class Difference(NamedTuple):
    """A field whose value is not the recipe's."""

    field: str
    expected: Any
    found: Any


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found."""

    figures: list[Judged]
    differences: list[Difference]
    unrecorded: list[str]  # fields that the recipe knows, and nobody recorded with the figures

    @property
    def is_inside(self) -> bool:
        """Whether every figure that was measured lies inside its interval."""
        return all(judged.is_inside is not False for judged in self.figures)


def compare(recipe: Recipe, figures: Mapping[str, float], conditions: Mapping[str, Any]) -> Comparison:
    """Holds figures, by name, against a recipe, and the fields that they depend on (nested or dotted) against its own.

    A field that the recipe does not know is not compared. Raises UserError where none of its figures was measured.
    """
    judged = [Judged(name, expected, figures.get(name)) for name, expected in recipe.expected.items()]
    if all(one.found is None for one in judged):
        raise UserError(f"{recipe.name} expects {some_of(recipe.expected)}; measured are only {some_of(figures, 20)}")
    found = dict(flattened(conditions))
    known = {name: value for name, value in recipe.conditions.items() if value is not None}
    differences = [
        Difference(name, value, found[name])
        for name, value in known.items()
        if found.get(name) is not None and not same(value, found[name])
    ]
    return Comparison(judged, differences, [name for name in known if found.get(name) is None])
