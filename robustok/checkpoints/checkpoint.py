"""Everything that a checkpoint holds of a model, and our folder that it is read from and written to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.errors import UserError
from ..core.files import read_record
from ..core.parsing import parsing
from ..core.settings import check_config
from ..core.text import some_of
from .reading import read_safetensors, verify
from .source import RECIPE, SOURCE, WeightsSource, read_recipe, read_source, source_document
from .writing import save

State = dict[str, Tensor]
WEIGHTS = ("ema", "model")


@dataclass
class Checkpoint:
    """An opened checkpoint; tensors are memory-mapped where the file allows it."""

    path: Path
    layout: str  # as a person would call it, with what it was recognised by
    config: Any  # config dataclass of the model's family
    weights: dict[str, State]  # "ema" and/or "model", under the names of our model
    teacher: State = field(default_factory=dict)  # frozen semantic network that came with a tokenizer, ViT keys
    discriminator: State = field(default_factory=dict)
    upstream: dict[str, Any] = field(default_factory=dict)  # JSON values that a published layout needs to be written
    source: WeightsSource | None = None  # where published weights come from
    recipe: dict[str, Any] = field(default_factory=dict)  # how weights of a run came about, see `read_recipe`

    def choose(self, weights: str) -> State:
        """The state dict asked for. Raises: ValueError for another name; UserError where the file has none."""
        if weights not in WEIGHTS:
            raise ValueError(f'weights must be "ema" or "model", found {weights!r}')
        if weights not in self.weights:
            has = " and ".join(map(repr, self.weights))
            raise UserError(f"{self.path}: {self.layout} without {weights!r} weights; it has {has}: ask for those")
        return self.weights[weights]


def read_config(folder: Path, configs: Mapping[str, type]) -> tuple[str, Any]:
    """(kind of model, its config) of a checkpoint folder. configs: the config dataclass of each known kind.

    Raises: UserError for another kind, and for settings that its dataclass does not have or does not allow.
    """
    path = folder / "config.json"
    document = read_record(path)
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in configs:
        raise UserError(f"{path}: kind must be one of {', '.join(configs)}, found {kind!r}")
    settings = document.get("config")
    if not isinstance(settings, dict):
        raise UserError(f"{path}: config must hold the settings of a {kind}, found {settings!r:.60}")
    unknown = sorted(set(settings) - {f.name for f in fields(configs[kind])})
    if unknown:
        raise UserError(f"{path}: unknown settings of a {kind}: {some_of(unknown)}")
    with parsing(path, f"the settings of a {kind}"):
        config = configs[kind](**{name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})
    check_model_config(config, path)
    return kind, config


def check_model_config(config: Any, where: Path) -> None:
    """Raises UserError naming the file unless every setting of a model read from it is what its field says."""
    try:
        check_config(config)
    except UserError as error:
        raise UserError(f"{where}: {error}: it is damaged, or of another version of this package") from error


def read_checkpoint(folder: Path, kind: str, config: Any) -> Checkpoint:
    """The checkpoint in a folder whose kind and config are known; low-rank adapters are added to what they adapt.

    Raises: UserError for files that are missing or damaged.
    """
    listed = verify(folder, [f"{name}.safetensors" for name in WEIGHTS])
    files = {name: f"{name}.safetensors" for name in (*WEIGHTS, "teacher", "discriminator")}
    tensors = {name: read_safetensors(folder / file) for name, file in files.items() if file in listed}
    if not tensors.keys() & set(WEIGHTS):
        raise UserError(
            f"{folder} has no weights: its manifest.json lists no {' and no '.join(files[n] for n in WEIGHTS)}"
        )
    upstream = folder / "upstream.json"
    return Checkpoint(
        path=folder,
        layout=f"{kind} checkpoint of this package (config.json says so)",
        config=config,
        weights={name: _merge_adapters(tensors[name]) for name in WEIGHTS if name in tensors},
        teacher=tensors.get("teacher", {}),
        discriminator=tensors.get("discriminator", {}),
        upstream=read_record(upstream) if upstream.is_file() else {},
        source=read_source(folder),
        recipe=read_recipe(folder),
    )


def write_checkpoint(checkpoint: Checkpoint, kind: str, folder: Path) -> None:
    """Writes a folder that `read_checkpoint` reads. Raises RunError when the disk is full or not writable."""
    tensors = dict(checkpoint.weights)
    if tensors.get("model") is tensors.get("ema"):  # one set of weights under both names
        tensors.pop("model", None)
    for name in ("teacher", "discriminator"):
        if getattr(checkpoint, name):
            tensors[name] = getattr(checkpoint, name)
    documents: dict[str, Any] = {"config": {"kind": kind, "config": asdict(checkpoint.config)}}
    if checkpoint.upstream:
        documents["upstream"] = checkpoint.upstream
    if checkpoint.source is not None:
        documents[SOURCE] = source_document(checkpoint.source)
    if checkpoint.recipe:
        documents[RECIPE] = checkpoint.recipe
    save(folder, tensors, documents)


def _merge_adapters(state: State) -> State:
    """A state dict whose linear layers have LoRA adapters (peft's names, alpha = rank) -> one without: W + B A."""
    merged = {}
    for key, tensor in state.items():
        layer, found, name = key.partition(".base_layer.")
        if found and name == "weight":
            low, high = (state[f"{layer}.lora_{part}.default.weight"] for part in "AB")
            merged[f"{layer}.weight"] = tensor + high @ low
        elif found:
            merged[f"{layer}.{name}"] = tensor
        elif ".lora_" not in key:
            merged[key] = tensor
    return merged
