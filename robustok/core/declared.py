"""Values of a file that people write, checked against the types that a dataclass declares for them."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from .errors import UserError

_WORDS = {
    tuple: "pixels, as 256 or [384, 256] (height, width)",
    str: "text",
    int: "a whole number",
    float: "a number",
    dict: "settings",
    list: "a list",
}
_WRITTEN: dict[type, tuple[type, ...]] = {tuple: (list,), float: (int, float)}  # as YAML has them


def declared_values(kind: type, given: Any, where: str) -> dict[str, Any]:
    """The values of a dataclass out of YAML, of the types that it declares; mappings and lists are not looked into.

    Raises UserError, which begins with `where`, for other types, unknown names and missing ones.
    """
    if not isinstance(given, dict):
        raise UserError(f"{where}: found {str(given)[:60]!r}, expected settings, a line `name: value` each")
    hints = get_type_hints(kind)
    for name in given:
        if name not in hints:
            raise UserError(f"{where}, {name!s:.60}: no such setting; expected one of {', '.join(hints)}")
    for field in fields(kind):
        if field.name not in given:
            if field.default is MISSING and field.default_factory is MISSING:
                raise UserError(f"{where}, {field.name}: is missing; expected {_said(hints[field.name])}")
        elif not _fits(given[field.name], hints[field.name]):
            found = f"{given[field.name]!r:.60}"
            raise UserError(f"{where}, {field.name}: found {found}, expected {_said(hints[field.name])}")
    return dict(given)


def _kinds(hint: Any) -> list[type]:
    """The types of a hint, those of a union one by one, mappings for dataclasses."""
    several = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return [dict if is_dataclass(kind) else get_origin(kind) or kind for kind in several]


def _fits(value: Any, hint: Any) -> bool:
    return any(isinstance(value, _WRITTEN.get(kind, (kind,))) for kind in _kinds(hint)) and not isinstance(value, bool)


def _said(hint: Any) -> str:
    kinds = _kinds(hint)
    return next(word for kind, word in _WORDS.items() if kind in kinds)
