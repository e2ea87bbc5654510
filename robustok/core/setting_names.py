"""Settings that were stored: their former names, and those on which no result depends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

RENAMED = {  # former name of a setting -> its name; files, options and stored runs with former names are still read
    "data.stop": "data.val",
    "data.judge": "data.test",
}
REMOVED = (
    "evaluation.batch_size",
)  # former settings that nothing depended on; where they are stored they are left out
HOUSEKEEPING = ("save_every", "keep", "alarm_usage")  # settings within sections on which no result depends


def with_new_names(settings: Mapping[str, Any], note: Callable[[str], None] = lambda old: None) -> dict[str, Any]:
    """Settings {section: {name: value}} with former names (`RENAMED`) replaced; `note` is called with each one found.
    Those of `REMOVED` are left out.

    A setting that is there under both names keeps the value of the new one.
    """
    settings = {name: dict(value) if isinstance(value, Mapping) else value for name, value in settings.items()}
    for old, new in RENAMED.items():
        (section, name), (_, new_name) = old.split("."), new.split(".")
        if isinstance(settings.get(section), dict) and name in settings[section]:
            value = settings[section].pop(name)
            settings[section].setdefault(new_name, value)
            note(old)
    for section, name in (old.split(".") for old in REMOVED):
        if isinstance(settings.get(section), dict):
            settings[section].pop(name, None)
    return settings


def what_results_depend_on(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as `with_new_names` takes and gives them, without those of `HOUSEKEEPING`: what stored results are
    compared by.
    """
    return {
        section: {name: value for name, value in values.items() if name not in HOUSEKEEPING}
        if isinstance(values, Mapping)
        else values
        for section, values in with_new_names(settings).items()
    }
