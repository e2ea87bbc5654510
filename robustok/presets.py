"""The YAML files of settings: the presets of configs/, and how any such file is read.

A file may name a preset that it is based on (`base: robustok-b`) and then holds only what differs from it.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config import RunConfig
from .core.errors import UserError
from .core.options import sampling_of
from .core.paths import given_path
from .core.setting_names import RENAMED, with_new_names
from .core.text import say
from .core.yaml_reading import read_yaml

_here = Path(__file__).parent
FOLDER = _here / "configs" if (_here / "configs").is_dir() else _here.parent / "configs"  # in a wheel, in a source tree


def preset_path(name: str) -> Path:
    """The file of the preset `name` (digits, robustok-b, rar-b, ...). Raises UserError with the list of presets."""
    presets = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    if not isinstance(name, str) or name not in presets:
        raise UserError(f"no preset {name!r:.60}; there are: {', '.join(presets)}")
    return presets[name]


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings of a YAML file, {section: {name: value}}, over those of the preset that it is based on.

    Settings under a former name are taken over under the present one, with a line on standard error that says so.
    Raises UserError for a file that is missing or no YAML mapping, and for a base that is no preset.
    """
    written = read_yaml(path, f"the presets are in {FOLDER}")
    if not isinstance(written, Mapping):
        raise UserError(f"{path} holds {str(written)[:60]!r}; expected settings, a line `name: value` each")
    settings = with_new_names(written, lambda old: say_renamed(path, old))
    base = settings.pop("base", None)
    if base is None:
        return settings
    try:
        below = preset_path(base)
    except UserError as error:
        raise UserError(f"{path}, base: {error}") from None
    return overlaid(read_settings(below), settings)


def run_settings_file(checkpoint: str | Path) -> Path | None:
    """config.yaml of the run that a checkpoint, or the folder of a stage, lies in; None for one that lies in none."""
    path = Path(os.path.realpath(given_path(checkpoint)))
    for stage in (path, path.parent):
        settings = stage.parent / "config.yaml"
        if settings.is_file() and any(stage.glob("step-*")):
            return settings
    return None


def sampling_defaults(generator: str | Path, section: str, preset: str | None = None) -> dict[str, Any]:
    """How a generator is sampled where nothing else is said: as the preset says, else as the run did that trained it,
    which is said on standard error, else as `RunConfig` does. section: its field with such settings.
    """
    settings = sampling_of(getattr(RunConfig(), section))
    file = run_settings_file(generator) if preset is None else preset_path(preset)
    if file is None:
        return settings
    stored = read_settings(file).get(section, {})
    settings = {name: stored.get(name, default) for name, default in settings.items()}
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    if preset is None and os.environ.get("RANK", "0") == "0":
        said = ", ".join(f"{name} {'none' if value is None else value}" for name, value in settings.items())
        say(f"sampling settings of the generator's run, where no option says otherwise ({file}): {said}", sys.stderr)
    return settings


def say_renamed(where: str | Path, old: str) -> None:
    """Says that the setting `old`, found in `where`, has a new name."""
    say(f"{where}: {old} is now called {RENAMED[old]}, and is read as that", sys.stderr)


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of both, those of `above` where both have one."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(below.get(name), Mapping)
        merged[name] = overlaid(below[name], value) if both else value
    return merged
