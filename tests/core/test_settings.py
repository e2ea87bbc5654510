"""What a setting may be stands beside it, is said in words, and is checked in one place."""

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

import pytest

from robustok.core.errors import UserError
from robustok.core.settings import NAME, PATH, bounds, check_config, setting, walk


@dataclass(frozen=True)
class Inner:
    rate: float = setting(0.5, "(0, 1]")
    sizes: tuple[int, ...] = setting((1, 2), "[1, 8]")
    levels: tuple[int, ...] = setting((), "[0, 8)", empty=True)
    range: tuple[float, float] | None = setting(None, "[-1, 1]")


@dataclass(frozen=True)
class Outer:
    seed: int = setting(0, "[0, 2**63)")
    mean: float = setting(0.0, "(-inf, inf)")
    name: str = setting("x", NAME)
    root: str | None = setting(None, PATH)
    flip: bool = False
    kind: Literal["a", "b"] | None = None
    inner: Inner = Inner()


WRONG = [
    ("seed", -1, "a whole number in [0, 2**63)"),
    ("seed", 2**63, "a whole number in [0, 2**63)"),
    ("seed", 1.0, "a whole number in [0, 2**63)"),
    ("seed", True, "a whole number in [0, 2**63)"),
    ("mean", math.nan, "a number"),
    ("mean", -math.inf, "a number"),
    ("mean", None, "a number"),
    *(("name", name, "the name of one folder") for name in ("", ".", "..", "a/b", "a\\b", "a\0b", "a\nb", "n" * 201)),
    ("root", "a\0b", "a path or null"),
    ("root", "", "a path or null"),
    ("flip", 1, "true or false"),
    ("kind", "c", "one of a, b or null"),
    ("inner.rate", 0, "a number in (0, 1]"),
    ("inner.rate", math.nan, "a number in (0, 1]"),
    ("inner.rate", False, "a number in (0, 1]"),
    ("inner.sizes", (), "one or more whole numbers in [1, 8]"),
    ("inner.sizes", (1, 9), "one or more whole numbers in [1, 8]"),
    ("inner.sizes", 3, "one or more whole numbers in [1, 8]"),
    ("inner.levels", (8,), "whole numbers in [0, 8)"),
    ("inner.range", (0.0,), "2 numbers in [-1, 1] or null"),
    ("inner.range", (0.0, 2.0), "2 numbers in [-1, 1] or null"),
]


def with_setting(config, name, value):
    section, _, inner = name.rpartition(".")
    if section:
        return replace(config, **{section: with_setting(getattr(config, section), inner, value)})
    return replace(config, **{name: value})


@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
def test_what_may_not_be(name, value, expected):
    with pytest.raises(UserError) as error:
        check_config(with_setting(Outer(), name, value))
    assert str(error.value) == f"{name}: found {value!r}, expected {expected}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 2**63 - 1),
        ("mean", -1e300),
        ("name", "..a"),
        ("root", "../x y/ä\n"),
        ("flip", True),
        ("kind", "b"),
        ("inner.rate", 1),
        ("inner.levels", ()),
        ("inner.range", (-1, 1.0)),
    ],
)
def test_what_may_be(name, value):
    check_config(with_setting(Outer(), name, value))


def test_a_section_of_its_own_is_named_in_front():
    with pytest.raises(UserError, match=r"^model\.rate: found 2, expected a number in \(0, 1\]$"):
        check_config(Inner(rate=2), "model")


def test_names_of_a_class_are_those_of_its_instances():
    assert [entry[:2] for entry in walk(Outer)] == [entry[:2] for entry in walk(Outer())]
    assert [name for name, *_ in walk(Outer)][-4:] == ["inner.rate", "inner.sizes", "inner.levels", "inner.range"]


def test_bounds_are_those_of_the_text():
    assert [bounds(f) for f in fields(Inner)][:2] == [(0, 1, False, True), (1, 8, True, True)]
    assert bounds(fields(Outer)[0]) == (0, 9223372036854775808, True, False)
    assert bounds(fields(Outer)[2]) is None


def test_an_interval_that_is_none_is_refused_where_it_is_written():
    with pytest.raises(ValueError, match="'0 to 1' is no interval"):
        setting(1, "0 to 1")
