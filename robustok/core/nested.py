"""Mappings in mappings, as settings and figures are, and the dotted names of what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def flattened(nested: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in nested mappings; what is no mapping is a value.

    {"pfd": {"a": 1}} gives ("pfd.a", 1).
    """
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
