"""What a checkpoint says beside its weights: where published ones come from, and how those of a run came about."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..core.files import read_record
from ..core.parsing import parsing

SOURCE, RECIPE = "source", "recipe"  # stems of their JSON files in a folder


@dataclass(frozen=True)
class WeightsSource:
    """Published weights of one layout, as facts to show beside a measurement."""

    name: str
    files: tuple[str, ...]  # names under which people download them
    repository: str  # owner/name of the repository or hub page that offers them
    licence: str | None  # that the repository states; None: none
    weights: str  # which of several sets its evaluation takes: "ema", "model", or "only" where there is one


def source_document(source: WeightsSource) -> dict[str, Any]:
    """A source as JSON values."""
    values = asdict(source)
    return {f.name: values[f.name] for f in fields(WeightsSource)}


def read_source(folder: Path) -> WeightsSource | None:
    """The source that a checkpoint folder names; None: none."""
    path = folder / f"{SOURCE}.json"
    if not path.is_file():
        return None
    document = read_record(path)
    with parsing(path, "the source of a checkpoint"):
        return WeightsSource(**document | {"files": tuple(document["files"])})


def read_recipe(folder: Path) -> dict[str, Any]:
    """How the weights of a checkpoint folder came about, as JSON values; empty where that is not known.

    `stage`, `step` and `settings` of the run that trained them, and, where the run evaluated this very checkpoint,
    `figures` of the stage and `evaluation`: what holds for all of them. Absolute paths are reduced to their last name:
    what is passed on says nothing of its author's disk.
    """
    stored, state, stage = (folder / f"{RECIPE}.json", folder / "state.json", folder.parent / "stage.json")
    if stored.is_file():
        return read_record(stored)
    if not state.is_file():
        return {}
    known = read_record(state)
    found = {"stage": folder.parent.name, "step": known.get("step"), "settings": _without_paths(known.get("settings"))}
    metrics = folder.parent.parent / "evaluation" / "metrics.json"
    if metrics.is_file() and stage.is_file() and read_record(stage).get("best") == folder.name:
        measured = read_record(metrics)
        figures = measured.get(folder.parent.name.replace("-", "_"))
        if isinstance(figures, dict):
            general = {name: measured[name] for name in ("distance", "notes", "images") if name in measured}
            found |= {"figures": figures, "evaluation": general}
    return found


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value
