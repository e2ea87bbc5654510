"""How somebody else's file holds a model: what a layout says of itself, and the file that it reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..checkpoints.checkpoint import WEIGHTS, Checkpoint, State
from ..checkpoints.reading import read_safetensors
from ..core.errors import UserError
from ..core.files import read_json
from .pickles import read_pickled
from .tensors import some_of

SETTINGS = "config.json"


@dataclass(frozen=True)
class Given:
    """What the caller says of a model, where its file cannot say it. None: nothing."""

    num_heads: int | None = None  # attention heads
    num_tokens: int | None = None  # tokens an image
    image_size: int | None = None  # pixels along one side, of a network that takes several sizes
    similarity: str | None = None  # how latents are compared with codes: "l2", "cosine" or "dot"


@dataclass(frozen=True)
class PublishedFile:
    """An opened file of weights."""

    path: Path
    content: dict[str, Any]  # all of it
    weights: dict[str, State]  # its sets of weights as they are, "ema" and/or "model"
    settings: dict[str, Any] = field(default_factory=dict)  # of the config.json beside it

    @property
    def state(self) -> State:
        """The first set of weights: what a layout is recognised by and reads sizes from."""
        return next(iter(self.weights.values()))


class Layout(Protocol):
    """A way in which other people's files hold models of one family."""

    name: str  # as a person would call it: "released RAR generator"
    marks: tuple[str, ...]  # keys that it is recognised by: ("target_aware_pos_embed",)

    def recognises(self, keys: Collection[str]) -> bool:
        """Whether a state dict with these keys has this layout."""

    def read(self, file: PublishedFile, given: Given) -> Checkpoint:
        """The file with its weights under our names.

        Raises: UserError for tensors that are missing, and for what neither the file nor the caller says.
        """

    def holds(self, config: Any) -> bool:
        """Whether a file of this layout can hold a model of such a config, of the layout's family."""

    def write(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The content of a file of this layout. Raises UserError where the checkpoint lacks what its readers need."""


def described(layout: Layout) -> str:
    """A layout in words, with what it was recognised by."""
    return f"{layout.name} (it has {' and '.join(layout.marks)})"


def nearest_layout(layouts: Iterable[Layout], keys: Collection[str]) -> str:
    """In words: the layout that most of a state dict's keys are marks of, and which marks are missing."""
    shares = {layout: sum(mark in keys for mark in layout.marks) / len(layout.marks) for layout in layouts}
    nearest = max(shares, key=shares.__getitem__)
    if shares[nearest] == 0:
        return "expected " + " or ".join(f"{' and '.join(layout.marks)} ({layout.name})" for layout in shares)
    missing = [mark for mark in nearest.marks if mark not in keys]
    return f"nearest is the {nearest.name}, but it has no {' and no '.join(missing)}"


def under_both_names(weights: dict[str, State]) -> dict[str, State]:
    """Sets of weights by name; where there is one alone, it is "ema" (for use) and "model" alike."""
    if len(weights) > 1:
        return weights
    (only,) = weights.values()
    return {"ema": only, "model": only}


def open_published(path: Path) -> PublishedFile:
    """Opens a file of weights: a state dict, or a dict that holds some under "ema" and "model" or "state_dict".

    Raises: UserError for a file that is damaged or holds something else; UnsafeFileError for a pickle that would run
    code.
    """
    content = _content(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a state dict or a training checkpoint")
    weights = {name: content[name] for name in WEIGHTS if isinstance(content.get(name), dict) and content[name]}
    if isinstance(content.get("state_dict"), dict):  # of Lightning
        weights = {"model": content["state_dict"]}
    weights = weights or {"ema": content}  # a plain state dict: one set of weights, that for use
    if not all(isinstance(tensor, Tensor) for state in weights.values() for tensor in state.values()):
        raise UserError(f"{path}: no known layout: found {some_of(content)}; expected tensors, or 'model' and 'ema'")
    return PublishedFile(path, content, weights, _settings_beside(path))


def published_file(folder: Path) -> Path | None:
    """The file of weights in a folder from a hub: the only .safetensors, beside a config.json that is not ours."""
    files = sorted(folder.glob("*.safetensors"))
    settings = folder / SETTINGS
    is_published = len(files) == 1 and settings.is_file() and "kind" not in read_json(settings)
    return files[0] if is_published else None


def _settings_beside(path: Path) -> dict[str, Any]:
    """The settings in the config.json of a hub's folder; empty for a file that stands alone."""
    if path.suffix != ".safetensors" or not (path.parent / SETTINGS).is_file():
        return {}
    settings = read_json(path.parent / SETTINGS)
    return settings if isinstance(settings, dict) else {}


def read_state(path: str | Path) -> State:
    """The state dict in a .safetensors or torch file. Raises UserError when there is none."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a file of weights")
    state = _content(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no plain state dict; expected one tensor for each name")
    return state


def _content(path: Path) -> Any:
    return read_safetensors(path) if path.suffix == ".safetensors" else read_pickled(path)
