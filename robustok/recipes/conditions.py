"""What a figure depends on: the fields of a recipe, which are recorded under the same names with the figures.

Fields have dotted names, as `sampling.temperature`. A value is a number, a text or a list of numbers. None is a value
that nobody recorded; what is set to nothing is the text "none", as on the command line (`--guidance_power none`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..config import RunConfig
from ..core.errors import UserError
from ..core.nested import flattened
from ..core.options import SAMPLING_NAMES
from ..core.settings import check_value, walk

TRAINING = "training"  # settings of the run that made the models, as `training.pairs.sigma`
FIELDS = {
    "tokenizer": ("file", "sha256", "precision", "execution", "codebook_size"),
    "generator": ("file", "sha256", "precision", "execution"),
    "sampling": (*SAMPLING_NAMES, "seed"),
    "samples": ("count", "per_class", "order", "rounding", "transform"),
    "images": ("count", "transform"),  # that are given back
    "perturbation": ("alphas", "deltas", "seed"),  # of pFID
    "reference": ("file", "sha256", "count"),
    "features": ("protocol", "weights"),
}

Conditions = dict[str, Any]  # value by dotted name


def read_conditions(written: Mapping[str, Any], where: str) -> Conditions:
    """The fields of a recipe, as its file has them. Raises UserError, which begins with `where`, for an unknown one."""
    found = dict(flattened(written))
    settings = {name: (f, hint) for name, _, f, hint in walk(RunConfig)}
    for name, value in found.items():
        section, _, field = name.partition(".")
        if section == TRAINING and field in settings:
            if value is not None:
                as_setting = tuple(value) if isinstance(value, list) else value
                check_value(f"{where}, {name}", as_setting, *settings[field])
        elif field not in FIELDS.get(section, ()):
            known = "settings of a run" if section == TRAINING else ", ".join(FIELDS.get(section, (*FIELDS, TRAINING)))
            raise UserError(f"{where}, {name:.80}: no such field; expected some of {known}")
        elif not _is_value(value):
            raise UserError(
                f"{where}, {name}: found {value!r:.60}, expected a number, a text, a list of numbers or null"
            )
    return found


def in_order(conditions: Conditions) -> Conditions:
    """The same, section by section."""
    sections = [*FIELDS, TRAINING]
    return dict(sorted(conditions.items(), key=lambda item: sections.index(item[0].partition(".")[0])))


def same(first: Any, second: Any) -> bool:
    """Whether two values of a field are equal; numbers up to what writing them down loses."""
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if _is_number(first) and _is_number(second):
        return math.isclose(first, second, rel_tol=1e-9)
    return type(first) is type(second) and first == second


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_number, value))
    return value is None or isinstance(value, str) or _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
