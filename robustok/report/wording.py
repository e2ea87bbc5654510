"""Figures in words: with their intervals, and beside what they are compared with. Records are as in metrics.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..evaluation.explaining import Usage
from ..evaluation.intervals import recorded

NO_DIFFERENCE = "no difference found"


def spread(record: Mapping[str, Any], name: str) -> str:
    """ "0.381 to 0.429", the 95 % interval of a figure; empty where it is not known.

    Both ends have as many decimals as show two digits of what they are apart from the middle, six at most.
    """
    interval = record.get(f"{name}_interval")
    if interval is None:
        return ""
    low, high = interval
    half = max((high - low) / 2, 1e-5)
    decimals = max(0, 1 - math.floor(math.log10(half)))
    return f"{low:.{decimals}f} to {high:.{decimals}f}"


def with_interval(record: Mapping[str, Any], name: str) -> str:
    """ "0.405 (0.381 to 0.429)", and the figure alone where its interval is not known."""
    found = spread(record, name)
    return f"{record[name]:.4g} ({found})" if found else f"{record[name]:.4g}"


def estimated(value: float) -> str:
    """The same of a figure that may know its interval itself."""
    return with_interval(recorded({"": value}), "")


def change(after: Mapping[str, Any], before: Mapping[str, Any], name: str) -> str:
    """ "-3.2%", or that no difference was found: the interval of the change has 0 in it. Empty where before is 0."""
    interval = after.get(f"{name}_change_interval")
    if interval is not None and interval[0] <= 0 <= interval[1]:
        return NO_DIFFERENCE
    return f"{after[name] / before[name] - 1:+.1%}" if before[name] else ""


def usage_in_words(usage: Usage) -> str:
    """How much of a codebook is used, and how evenly."""
    return (
        f"{usage.used:.1%} of the {len(usage.counts)} codes occur; perplexity {usage.perplexity:.0f}: the tokens are "
        f"spread as widely as over {usage.perplexity:.0f} codes used equally often. The most frequent code has "
        f"{usage.top:.1%} of all tokens."
    )
