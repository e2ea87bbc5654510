"""The settings that something stored was made under, compared with those of now."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.setting_names import what_results_depend_on

SHOWN = 10  # differences named
CURE = "use another --name, restore these settings, or start over with --resume never"


def refuse_other_settings(
    stored: Mapping[str, Any], now: Mapping[str, Any], where: str | Path, cure: str = CURE
) -> None:
    """Raises UserError, with the first ten settings that differ and the cure, unless what is stored at `where` belongs
    to `now`.

    Both are settings by name, in sections or not; former names in `stored` are known.
    """
    found, expected = _by_dotted_name(what_results_depend_on(stored)), _by_dotted_name(now)
    different = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    if not different:
        return
    lines = [f"  {name}: stored {found.get(name)!r}, now {expected.get(name)!r}" for name in different[:SHOWN]]
    if len(different) > SHOWN:
        lines.append(f"  ... and {len(different) - SHOWN} more")
    raise UserError("\n".join([f"{where} belongs to another config:", *lines, cure]))


def _by_dotted_name(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"data": {"val": 2}} -> {"data.val": 2}; tuples as lists, which is what JSON gives back."""
    if isinstance(value, Mapping):
        return {k: v for name, item in value.items() for k, v in _by_dotted_name(item, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): list(value) if isinstance(value, tuple) else value}
