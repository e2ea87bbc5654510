"""Opening a checkpoint of any known layout: which layout it is and why, its config, and its weights under our keys."""

from argparse import Namespace
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..checkpoints.reading import find_checkpoint, verify
from ..config import RARConfig, TokenizerConfig
from ..core.errors import UserError
from ..core.files import read_json
from ..formats import rar_release, robustok_release
from ..formats.pickles import read_pickled
from ..formats.tensors import merge_adapters

State = dict[str, Tensor]
CONFIGS = {"tokenizer": TokenizerConfig, "rar": RARConfig}
WEIGHTS = ("ema", "model")


@dataclass
class Checkpoint:
    """An opened checkpoint; tensors are memory-mapped where the file allows it."""

    path: Path
    kind: str  # "tokenizer" or "rar"
    layout: str  # as a person would call it, with what it was recognised by
    config: TokenizerConfig | RARConfig
    weights: dict[str, State]  # "ema" and/or "model"
    teacher: State = field(default_factory=dict)  # frozen semantic network of a released tokenizer, ViT keys
    discriminator: State = field(default_factory=dict)
    args: Namespace | None = None  # of the released training script
    steps: int = 0

    def choose(self, weights: str) -> State:
        """The state dict asked for. Raises: ValueError for another name; UserError where the file has none."""
        if weights not in WEIGHTS:
            raise ValueError(f'weights must be "ema" or "model", found {weights!r}')
        if weights not in self.weights:
            has = " and ".join(map(repr, self.weights))
            raise UserError(f"{self.path}: {self.layout} without {weights!r} weights; it has {has}: ask for those")
        return self.weights[weights]


def open_checkpoint(path: Path, num_heads: int | None = None, kind: str | None = None) -> Checkpoint:
    """Open a folder of ours, or a file of a released layout.

    Args:
        num_heads: attention heads of a released tokenizer whose width is no standard ViT.
        kind: "tokenizer" or "rar" where only one will do.

    Raises: UserError for what is missing, damaged, of no known layout or another kind; UnsafeFileError for a pickle
    that would run code.
    """
    if path.is_dir():
        return _open_folder(find_checkpoint(path), kind)
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a checkpoint folder or file")
    content = read_safetensors(path) if path.suffix == ".safetensors" else read_pickled(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a state dict or a training checkpoint")
    weights = {name: content[name] for name in WEIGHTS if isinstance(content.get(name), dict) and content[name]}
    if not weights:
        weights = {"ema": content}  # a plain state dict: one set of weights, that for use
    states = list(weights.values())
    if any(not isinstance(tensor, Tensor) for state in states for tensor in state.values()):
        raise UserError(f"{path}: no known layout: found {_some(content)}; expected tensors, or 'model' and 'ema'")
    if robustok_release.recognises(states[0]):
        _expect(kind, "tokenizer", path, robustok_release.LAYOUT)
        return _released_tokenizer(path, content, weights, num_heads)
    if rar_release.recognises(states[0]):
        _expect(kind, "rar", path, rar_release.LAYOUT)
        return Checkpoint(path, "rar", rar_release.LAYOUT, rar_release.config_of(states[0], str(path)), weights)
    raise UserError(
        f"{path}: no known layout: found {_some(states[0])}; expected {' and '.join(robustok_release.MARKS)} (released "
        f"tokenizer) or {rar_release.MARK} (released generator)"
    )


def _expect(expected: str | None, found: str, path: Path, layout: str) -> None:
    if expected not in (None, found):
        raise UserError(f"{path} is a {layout}; expected a {expected}")


def read_safetensors(path: Path) -> State:
    """The tensors of a safetensors file. Raises UserError when it is damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}); it is truncated or damaged") from error


def _open_folder(folder: Path, expected: str | None) -> Checkpoint:
    document = read_json(folder / "config.json")
    kind = document.get("kind") if isinstance(document, dict) else None
    if kind not in CONFIGS:
        raise UserError(f"{folder / 'config.json'}: kind must be one of {', '.join(CONFIGS)}, found {kind!r}")
    layout = f"{kind} checkpoint of this package (config.json says so)"
    _expect(expected, kind, folder, layout)
    config = _config(kind, document.get("config"), folder / "config.json")
    verify(folder, ["model.safetensors", "ema.safetensors"])
    states = {name: folder / f"{name}.safetensors" for name in (*WEIGHTS, "teacher", "discriminator")}
    tensors = {name: read_safetensors(path) for name, path in states.items() if path.is_file()}
    weights = {name: merge_adapters(tensors[name]) for name in WEIGHTS if name in tensors}
    upstream = read_json(folder / "upstream.json") if (folder / "upstream.json").is_file() else {}
    return Checkpoint(
        folder,
        kind,
        layout,
        config,
        weights,
        tensors.get("teacher", {}),
        tensors.get("discriminator", {}),
        Namespace(**upstream["args"]) if upstream else None,
        upstream.get("steps", 0),
    )


def _config(kind: str, settings: Any, where: Path) -> TokenizerConfig | RARConfig:
    if not isinstance(settings, dict):
        raise UserError(f"{where}: config must hold the settings of a {kind}, found {settings!r:.60}")
    unknown = sorted(set(settings) - {f.name for f in fields(CONFIGS[kind])})
    if unknown:
        raise UserError(f"{where}: unknown settings of a {kind}: {', '.join(unknown[:10])}")
    return CONFIGS[kind](**{name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})


def _released_tokenizer(path: Path, content: dict[str, Any], weights: dict[str, State], num_heads: int | None):
    first = next(iter(weights.values()))
    args = content.get("args")
    args = args if isinstance(args, Namespace) else None
    teacher = {
        k.removeprefix(robustok_release.TEACHER): v for k, v in first.items() if k.startswith(robustok_release.TEACHER)
    }
    return Checkpoint(
        path,
        "tokenizer",
        robustok_release.LAYOUT,
        robustok_release.config_of(first, args or Namespace(), num_heads, str(path)),
        {name: robustok_release.from_released(state) for name, state in weights.items()},
        teacher,
        content.get("discriminator") or {},
        args,
        content.get("steps", 0),
    )


def _some(keys) -> str:
    return ", ".join(list(map(str, keys))[:10]) or "nothing"
