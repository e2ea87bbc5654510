"""Figures that were measured, with what they depend on: read off the metrics.json of any command, or a run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.files import read_record
from ..core.nested import flattened
from ..core.text import some_of
from ..presets import read_settings
from .conditions import TRAINING, Conditions

METRICS = "metrics.json"
GENERATED = {"fid": "gfid", "fd": "gfd"}  # what the distance of a set of images is called in a recipe
LISTS = ("tokenizers", "decoders")  # keys of records of several models


@dataclass(frozen=True, eq=False)
class Found:
    """Figures by name, and the value of each field that was recorded with them."""

    figures: dict[str, float]
    conditions: Conditions


def read_found(path: str | Path, entry: str | None = None) -> Found:
    """The figures in a metrics.json, or in a folder that holds one (an --output, a run).

    entry: which of several tokenizers or decoders; None: the only one.
    Figures of a set of images are called as a recipe calls them: gfid, gfd. Those of a run have dotted names, as
    `generator.gfd`, and its settings are the fields `training...`.
    Raises UserError for a file that is missing or no record of figures, and for an entry that is not in it.
    """
    file = _metrics_file(Path(path))
    record = read_record(file)
    conditions = _conditions(record.get("conditions"), file)
    if isinstance(record.get("metrics"), dict):
        figures = {GENERATED.get(name, name): value for name, value in record["metrics"].items()}
    elif key := next((key for key in LISTS if isinstance(record.get(key), list)), None):
        figures = _chosen(record[key], entry, file)
        conditions |= _conditions(figures.get("conditions"), file)
        figures = figures.get("figures", figures)
    elif isinstance(record.get("mmd"), list) and record["mmd"]:
        lowest = min(record["mmd"], key=lambda cell: cell["value"])
        figures = {f"mmd_lowest_{name}": lowest[name] for name in ("alpha", "delta")}
    else:
        figures = record
        settings = file.parent.parent / "config.yaml"
        if settings.is_file():
            conditions |= {f"{TRAINING}.{name}": value for name, value in flattened(read_settings(settings))}
    numbers = {name: value for name, value in flattened(figures) if _is_figure(value)}
    if not numbers:
        raise UserError(f"{file} holds no figures; expected what evaluate, sample or a run writes")
    return Found(numbers, {name: value for name, value in conditions.items() if value is not None})


def _metrics_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    places = [path / METRICS, path / "evaluation" / METRICS]
    for place in places:
        if place.is_file():
            return place
    raise UserError(f"{path} holds no figures: there is neither {places[0]} nor {places[1]}")


def _conditions(recorded: Any, file: Path) -> Conditions:
    if recorded is not None and not isinstance(recorded, Mapping):
        raise UserError(f"{file}: conditions: found {recorded!r:.60}, expected what the figures depend on by name")
    return dict(flattened(recorded or {}))


def _chosen(entries: list, entry: str | None, file: Path) -> dict[str, Any]:
    """One of several models' figures."""
    named = {str(found.get("name")): found for found in entries if isinstance(found, dict)}
    if entry is None and len(named) == 1:
        return next(iter(named.values()))
    if entry not in named:
        said = "" if entry is None else f" and no {entry!r}"
        raise UserError(f"{file} holds figures of {some_of(named)}{said}: choose one with --entry NAME")
    return named[entry]


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
