"""Opening other people's files of weights: which of their entries are weights, under which names they keep them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints.checkpoint import State
from ..checkpoints.reading import read_safetensors
from ..core.errors import UserError
from ..core.files import read_record
from ..core.paths import regular_file
from ..core.text import some_of
from .layout import SETTINGS, PublishedFile
from .pickles import read_pickled

# Under which names training scripts keep weights: averages and those that learn, in the order they are looked for.
CONTAINERS = {
    "ema": ("ema", "ema_state_dict", "model_ema"),
    "model": ("model", "state_dict", "model_state_dict", "module", "net"),
}
# What DistributedDataParallel puts before every name, and torch.compile before those of what it compiled.
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+|_orig_mod\.")
# How what people save by mistake begins -> what it is, and what to do.
MISTAKES = {
    b"version https://git-lfs": "a Git-LFS pointer, not the weights it points to: fetch these with `git lfs pull`",
    b"<!doctype html": "a web page, not the weights it offers: fetch the file itself",
    b"<html": "a web page, not the weights it offers: fetch the file itself",
    b"<?xml": "a server's answer in XML, not the weights: fetch the file again",
}


def open_published(path: Path) -> PublishedFile:
    """Opens a file of weights: a state dict, or a dict that holds some under a name of `CONTAINERS`.

    Names lose what torch's wrappers put before them. Entries beside the tensors of a state dict (a count, a version)
    are passed over.

    Raises: UserError for a file that is damaged or holds something else; UnsafeFileError for a pickle that would run
    code.
    """
    content = _content(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a state dict or a training checkpoint")
    weights = {name: state for name, held in CONTAINERS.items() if (state := _first(content, held))}
    if not weights and not any(map(_state, content.values())):
        weights = {"ema": _state(content)}  # a plain state dict: one set of weights, that for use
    if not any(weights.values()):
        names = ", ".join(name for held in CONTAINERS.values() for name in held)
        found = f"{path}: no known layout: found {some_of(content)}"
        raise UserError(f"{found}; expected tensors by name, or a dict of them under one of {names}")
    return PublishedFile(path, content, weights, _settings_beside(path))


def published_file(folder: Path) -> Path | None:
    """The file of weights in a folder from a hub: the only .safetensors, beside a config.json that is not ours."""
    files = sorted(folder.glob("*.safetensors"))
    settings = folder / SETTINGS
    is_published = len(files) == 1 and settings.is_file() and "kind" not in read_record(settings)
    return files[0] if is_published else None


def read_state(path: str | Path) -> State:
    """The state dict in a .safetensors or torch file. Raises UserError when there is none."""
    path = regular_file(path, "a file of weights")
    state = _content(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no plain state dict; expected one tensor for each name")
    return state


def _first(content: dict[str, Any], names: tuple[str, ...]) -> State:
    return next((state for name in names if (state := _state(content.get(name)))), {})


def _state(entry: Any) -> State:
    """The tensors of a dict, under the names that they have without wrappers; empty where there are none."""
    if not isinstance(entry, dict):
        return {}
    tensors = {str(key): value for key, value in entry.items() if isinstance(value, Tensor)}
    plain = {WRAPPERS.sub("", key): tensor for key, tensor in tensors.items()}
    return plain if len(plain) == len(tensors) else tensors


def _settings_beside(path: Path) -> dict[str, Any]:
    """The settings in the config.json of a hub's folder; empty for a file that stands alone."""
    if path.suffix != ".safetensors" or not (path.parent / SETTINGS).is_file():
        return {}
    return read_record(path.parent / SETTINGS)


def _content(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    for beginning, what in MISTAKES.items():
        if start.startswith(beginning):
            raise UserError(f"{path} is {what}")
    if start and start.isascii() and b" ".join(start.split()).decode().isprintable():  # no format of weights begins so
        raise UserError(f"{path} is a text file; expected weights, a .safetensors file or a torch checkpoint")
    return read_safetensors(path) if path.suffix == ".safetensors" else read_pickled(path)
