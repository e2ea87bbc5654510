"""Figures in words: with their intervals, and beside what they are compared with. Records are as in metrics.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..evaluation.explaining import Usage
from ..evaluation.intervals import recorded

NO_DIFFERENCE = "no difference found"


def half_width(record: Mapping[str, Any], name: str) -> float | None:
    """Half of the 95 % interval of a figure, or of "NAME_change"; None where it is not known."""
    interval = record.get(f"{name}_interval")
    return None if interval is None else (interval[1] - interval[0]) / 2


def with_interval(record: Mapping[str, Any], name: str) -> str:
    """ "0.405 ± 0.024", and the figure alone where its interval is not known."""
    return rounded(record[name], half_width(record, name))


def rounded(value: float, half: float | None, sign: str = "") -> str:
    """A figure with as many decimals as show two digits of its half-width. sign: "+" to show that of a change, too."""
    if not half:  # not known, or none
        return f"{value:{sign}.4g}" + ("" if half is None else " ± 0")
    decimals = max(0, 1 - math.floor(math.log10(half)))
    return f"{value:{sign}.{decimals}f} ± {half:.{decimals}f}"


def estimated(value: float) -> str:
    """The same of a figure that may know its interval itself."""
    return with_interval(recorded({"": value}), "")


def card(title: str, record: Mapping[str, Any], name: str, drawn: str, meaning: str) -> tuple[str, str, str]:
    """A headline: the figure, large, and what it means, its half-width first; drawn: what that is over the draw of."""
    value, _, half = with_interval(record, name).partition(" ± ")
    return (title, value, f"± {half} (95 % over the {drawn}); {meaning}" if half else meaning)


def change(after: Mapping[str, Any], before: Mapping[str, Any], name: str) -> str:
    """ "-2.0 ± 0.5", or that no difference was found: the interval of the change has 0 in it.

    Of a figure without such an interval "-3.2%"; empty where it was 0.
    """
    if (half := half_width(after, f"{name}_change")) is not None:
        by = after[name] - before[name]
        return rounded(by, half, "+") if abs(by) > half else NO_DIFFERENCE
    return f"{after[name] / before[name] - 1:+.1%}" if before[name] else ""


def usage_in_words(usage: Usage) -> str:
    """How much of a codebook is used, and how evenly."""
    return (
        f"{usage.used:.1%} of the {len(usage.counts)} codes occur; perplexity {usage.perplexity:.0f}: the tokens are "
        f"spread as widely as over {usage.perplexity:.0f} codes used equally often. The most frequent code has "
        f"{usage.top:.1%} of all tokens."
    )
