"""The YAML files of settings: the presets of configs/, and how any such file is read.

A file may name a preset that it is based on (`base: robustok-b`) and then holds only what differs from it.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .config import RENAMED, with_new_names
from .core.errors import UserError
from .core.text import say

_here = Path(__file__).parent
FOLDER = _here / "configs" if (_here / "configs").is_dir() else _here.parent / "configs"  # in a wheel, in a source tree


def preset_path(name: str) -> Path:
    """The file of the preset `name` (digits, robustok-b, rar-b, ...). Raises UserError with the list of presets."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"no preset {name!r}; there are: {', '.join(sorted(p.stem for p in FOLDER.glob('*.yaml')))}")
    return path


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings of a YAML file, {section: {name: value}}, over those of the preset that it is based on.

    Settings under a former name are taken over under the present one, with a line on standard error that says so.
    Raises UserError for a file that is missing or no YAML mapping, and for a base that is no preset.
    """
    try:
        written = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML ({error}); the presets are in {FOLDER}") from error
    if not isinstance(written, Mapping):
        raise UserError(f"{path} holds {str(written)[:60]!r}; expected settings, a line `name: value` each")
    settings = with_new_names(written, lambda old: say_renamed(path, old))
    base = settings.pop("base", None)
    return settings if base is None else _merged(read_settings(preset_path(base)), settings)


def say_renamed(where: str | Path, old: str) -> None:
    """Says that the setting `old`, found in `where`, has a new name."""
    say(f"{where}: {old} is now called {RENAMED[old]}, and is read as that", sys.stderr)


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of both, those of `above` where both have one."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(below.get(name), Mapping)
        merged[name] = _merged(below[name], value) if both else value
    return merged
