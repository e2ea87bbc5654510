"""The models that training starts from: new ones, new ones on pretrained ViTs, or stored ones."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..checkpoints.settings import refuse_other_settings
from ..config import RunConfig, TokenizerConfig
from ..core.errors import UserError
from .interfaces import DiscreteTokenizer, LoadedGenerator
from .load import check_codebooks, load_generator, load_tokenizer
from .registry import family_of
from .tokenizers.tuning import start_from_dinov2, tune
from .tokenizers.vit_tokenizer import ViTTokenizer


def tokenizer_to_train(run: RunConfig) -> ViTTokenizer:
    """The tokenizer that main training starts from, on the CPU; new weights come from torch's global generator.

    Raises: UserError for a stored tokenizer, or pretrained ViTs, of other shapes than the settings'.
    """
    if run.start.tokenizer:
        model = _stored_tokenizer(run.start.tokenizer, run.start.num_heads, run.tokenizer)
    else:
        model = ViTTokenizer(run.tokenizer)
        if run.frozen.dinov2:
            start_from_dinov2(model, run.frozen.dinov2)
    tune(model, run.frozen)
    return model


def _stored_tokenizer(path: str, num_heads: int | None, config: TokenizerConfig) -> ViTTokenizer:
    """A stored tokenizer under the settings `config`, which may differ in what decides no shape (drop_path)."""
    stored = load_tokenizer(path, "model", num_heads)
    if type(stored.config) is not type(config):
        found, expected = (family_of(c).kind for c in (stored.config, config))
        raise UserError(f"start.tokenizer: {path} holds a {found}; expected a {expected}, as the settings describe")
    found, expected = ({"tokenizer": shape_settings(c)} for c in (stored.config, config))
    refuse_other_settings(found, expected, Path(path))
    model = ViTTokenizer(config)
    model.load_state_dict(stored.state_dict())
    return model


def shape_settings(config: TokenizerConfig) -> dict[str, Any]:
    """The settings of a tokenizer that decide which tensors it has and their shapes, with defaults written out."""
    shape = asdict(config) | {"drop_path": None, "layer_scale": config.layer_scale is not None}
    for name in ("width", "depth", "heads"):
        shape[f"decoder_{name}"] = shape[f"decoder_{name}"] or shape[name]
    shape["num_latents"] = config.num_latents or (config.image_size // config.patch_size) ** 2
    return shape


def generator_to_train(run: RunConfig, tokenizer: DiscreteTokenizer, num_classes: int) -> LoadedGenerator:
    """The generator that is trained on this tokenizer's tokens, on the CPU; new weights as above.

    Raises: UserError for settings, or a stored generator, that do not fit the tokenizer or the data.
    """
    if run.start.generator:
        model = load_generator(run.start.generator, "model")
    else:
        config = _fitted(run.generator, tokenizer, num_classes)
        model = family_of(config).build(config)
    check_codebooks(tokenizer, model)
    return model


def _fitted(config: Any, tokenizer: DiscreteTokenizer, num_classes: int) -> Any:
    """The generator's config with what the tokenizer and the data decide; another value given for it is refused."""
    decided = {
        "codebook_size": tokenizer.codebook.shape[-2],
        "num_classes": num_classes,
        "num_tokens": tokenizer.num_tokens,
    }
    for name, value in decided.items():
        given = getattr(config, name)
        if given not in (None, value):
            raise UserError(f"generator.{name}: found {given}, but tokenizer and data have {value}; leave it out")
    return replace(config, **decided)
