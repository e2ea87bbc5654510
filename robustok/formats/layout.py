"""How somebody else's file holds a model: what a layout says of itself, and the file that it reads."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..checkpoints.checkpoint import Checkpoint, State
from ..checkpoints.writing import write_safetensors
from ..core.sizes import Size

HUB_WEIGHTS, SETTINGS = "model.safetensors", "config.json"  # of a hub's folder


@dataclass(frozen=True)
class Given:
    """What the caller says of a model, where its file cannot say it. None: nothing."""

    num_heads: int | None = None  # attention heads
    num_tokens: int | None = None  # tokens an image
    tokenizer_tokens: int | None = None  # those of the tokenizer that a generator is used with
    image_size: Size | None = None  # of a network that takes several sizes
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


@dataclass(frozen=True)
class HubFolder:
    """What a layout writes whose readers open a hub's folder: one file of weights, and config.json beside it."""

    state: State
    settings: dict[str, Any]
    weights: str = HUB_WEIGHTS  # name of that file

    def save(self, folder: Path) -> None:
        """Writes both into a new folder."""
        folder.mkdir()
        tensors = {name: tensor.contiguous().clone() for name, tensor in self.state.items()}
        write_safetensors(folder / self.weights, tensors)
        (folder / SETTINGS).write_text(json.dumps(self.settings, indent=1))


class Layout(Protocol):
    """A way in which other people's files hold models of one family."""

    name: str  # as a person would call it: "released RAR generator"
    marks: tuple[str, ...]  # keys that it is recognised by: ("target_aware_pos_embed",)
    # A layout of one source has it as `source`; one of several gives it to what it reads.

    def recognises(self, keys: Collection[str]) -> bool:
        """Whether a state dict with these keys has this layout."""

    def read(self, file: PublishedFile, given: Given) -> Checkpoint:
        """The file with its weights under our names.

        Raises: UserError for tensors that are missing, and for what neither the file nor the caller says.
        """

    def holds(self, config: Any) -> bool:
        """Whether a file of this layout can hold a model of such a config, of the layout's family."""

    def write(self, checkpoint: Checkpoint) -> dict[str, Any] | HubFolder:
        """The content of a file of this layout. Raises UserError where the checkpoint lacks what its readers need."""


def described(layout: Layout) -> str:
    """A layout in words, with what it was recognised by."""
    return f"{layout.name} (it has {' and '.join(layout.marks)})"


def nearest_layout(layouts: Iterable[Layout], keys: Collection[str]) -> str:
    """In words: the layouts that most of a state dict's keys are marks of, and which marks are missing."""
    layouts = list(layouts)
    shares = [sum(mark in keys for mark in layout.marks) / len(layout.marks) for layout in layouts]
    if max(shares) == 0:
        return f"expected one of: {', '.join(layout.name for layout in layouts)}"
    nearest = [layout for layout, share in zip(layouts, shares, strict=True) if share == max(shares)]
    return f"nearest is {', or '.join(_compared(layout, keys) for layout in nearest)}"


def _compared(layout: Layout, keys: Collection[str]) -> str:
    has, lacks = ([mark for mark in layout.marks if (mark in keys) is found] for found in (True, False))
    but = f"but it has no {' and no '.join(lacks)}" if lacks else "but it is another network"
    return f"the {layout.name}, {but} (it has {' and '.join(has)})"


def under_both_names(weights: dict[str, State]) -> dict[str, State]:
    """Sets of weights by name; where there is one alone, it is "ema" (for use) and "model" alike."""
    if len(weights) > 1:
        return weights
    (only,) = weights.values()
    return {"ema": only, "model": only}
