"""What a setting may be, said beside it, and the one place that checks it.

    @dataclass(frozen=True)
    class LossConfig:
        commit: float = setting(0.25, "[0, inf)")
        kind: Literal["hinge", "non_saturating"] = "hinge"

Types are part of what may be: a switch is no number, and NaN is in no interval. Booleans and choices need nothing but
their type. How settings must fit each other, their files and the data is not said here (job/relations.py).
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import Field, field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import UserError

PATH = "a path"
NAME = "the name of one folder"
WORD = "a word"
_TEXTS = {  # what texts of each kind match, whole
    PATH: r"[^\0]+",
    NAME: r"(?!\.{1,2}$)[^\0-\x1f/\\]{1,200}",
    WORD: r"\w[\w.:-]*",
}
_INTERVAL = re.compile(r"([\[(])(\S+), (\S+)([\])])")


def setting(default: Any, allowed: str = "", *, empty: bool = False) -> Any:
    """A field of a config with this default and what it may be.

    allowed: of numbers, also of each in a tuple, an interval: "[0, 1)", "(0, inf)" (any finite one above 0),
        "[0, 2**63)"; of texts PATH, NAME or WORD. empty: a tuple of any length may have none.
    """
    if allowed and allowed not in _TEXTS:
        _interval(allowed)
    return field(default=default, metadata={"allowed": allowed, "empty": empty})


def check_config(config: Any, section: str = "") -> None:
    """Raises UserError for the first setting, also of the sections within, that is not what its field says.

    section: dotted name of the config, which stands before the names in the message.
    """
    for name, value, f, hint in walk(config, section):
        check_value(name, value, f, hint)


def walk(config: Any, section: str = "") -> Iterator[tuple[str, Any, Field, Any]]:
    """(dotted name, value, field, type) of every setting of a config, or of a class of configs with its defaults."""
    kind = config if isinstance(config, type) else type(config)
    for f in fields(kind):
        name, hint = f"{section}.{f.name}".removeprefix("."), _hints(kind)[f.name]
        if is_dataclass(hint):
            yield from walk(hint if isinstance(config, type) else getattr(config, f.name), name)
        else:
            yield name, f.default if isinstance(config, type) else getattr(config, f.name), f, hint


def check_value(name: str, value: Any, f: Field, hint: Any) -> None:
    """Raises UserError with the one message of all settings unless `value` is what the field of this type may be."""
    if not _fits(value, hint, f.metadata.get("allowed", ""), f.metadata.get("empty", False)):
        found = repr(value) if isinstance(value, str) else value
        raise UserError(f"{name}: found {found}, expected {expected(f, hint)}")


def expected(f: Field, hint: Any) -> str:
    """What a field of this type may be, in words: "a number in [0, 1) or null"."""
    allowed, several = f.metadata.get("allowed", ""), "" if f.metadata.get("empty") else "one or more "
    return " or ".join(_said(option, allowed, several) for option in _options(hint))


def bounds(f: Field) -> tuple[float, float, bool, bool] | None:
    """(lowest, highest, whether the lowest itself is allowed, the highest) of a field's numbers; None where it has no
    interval.
    """
    allowed = f.metadata.get("allowed", "")
    return _interval(allowed) if allowed and allowed not in _TEXTS else None


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, else the type alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any, allowed: str, empty: bool) -> bool:
    return any(_is(value, option, allowed, empty) for option in _options(hint))


def _is(value: Any, hint: Any, allowed: str, empty: bool) -> bool:
    """Whether the value is of this one type and allowed."""
    if get_origin(hint) is Literal:
        return value in get_args(hint) and not isinstance(value, bool)
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = get_args(hint)
        if kinds[-1] is ...:
            kinds = kinds[:1] * len(value)
            if not value and not empty:
                return False
        return len(kinds) == len(value) and all(_fits(*pair, allowed, empty) for pair in zip(value, kinds, strict=True))
    if hint in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return (whole or (hint is float and isinstance(value, float))) and _within(value, allowed)
    if hint is str:
        return isinstance(value, str) and re.fullmatch(_TEXTS.get(allowed, r"[^\0]*"), value, re.DOTALL) is not None
    return value is None if hint is type(None) else isinstance(value, hint)


def _within(value: float, allowed: str) -> bool:
    low, high, with_low, with_high = _interval(allowed or "(-inf, inf)")
    return (low <= value if with_low else low < value) and (value <= high if with_high else value < high)


@cache
def _interval(text: str) -> tuple[float, float, bool, bool]:
    parts = _INTERVAL.fullmatch(text)
    if parts is None:
        raise ValueError(f"{text!r} is no interval such as '[0, 1)', and no kind of text")
    return _number(parts[2]), _number(parts[3]), parts[1] == "[", parts[4] == "]"


def _number(text: str) -> float:
    base, power, exponent = text.partition("**")
    if power:
        return int(base) ** int(exponent)
    return float(text) if not re.fullmatch(r"-?\d+", text) else int(text)


def _said(hint: Any, allowed: str, several: str) -> str:
    """One type in words."""
    where = f" in {allowed}" if allowed and allowed != "(-inf, inf)" else ""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if get_origin(kinds[0]) is Literal:
            return f"{several}of {', '.join(map(str, get_args(kinds[0])))}"
        numbers = ("whole " if kinds[0] is int else "") + "numbers" + where
        return several + numbers if kinds[-1] is ... else f"{len(kinds)} {numbers}"
    names = {int: f"a whole number{where}", float: f"a number{where}", bool: "true or false", str: allowed or "a text"}
    return "null" if hint is type(None) else names[hint]
