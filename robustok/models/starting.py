"""The models that a run starts from: new ones, new ones on pretrained ViTs, or stored ones, which say what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.stored_settings import refuse_other_settings
from ..config import RunConfig
from ..core.errors import UserError
from ..core.sizes import area
from ..model_configs import MAETokConfig, TokenizerConfig
from .interfaces import LoadedGenerator, LoadedTokenizer, Tokenizer, is_discrete
from .load import build, check_fits, load_tokenizer, locate, meta_model, open_checkpoint, take_statistics
from .registry import Family, Role, family_of, trained_config, trained_family
from .tokenizers import maetok
from .tokenizers.tuning import start_from_dinov2, tune
from .tokenizers.vit_tokenizer import ViTTokenizer
from .vit import patch_grid


def with_started_families(run: RunConfig) -> RunConfig:
    """The settings with the families of the models that they start from, where `family` names none.

    Raises: UserError for a model that cannot be opened, where `family` names another than it is of, and for a generator
    beside a tokenizer whose number of codes is not known yet.
    """
    if run.start.tokenizer:
        run = _with_family(run, "tokenizer", tokenizer_shape(run))
    if run.start.generator:
        shape = tokenizer_shape(run)
        if getattr(shape, "codebook_size", 0) is None:
            raise UserError(
                f"start.generator: found {run.start.generator} without start.tokenizer, expected the tokenizer that it "
                "was trained with beside it; or, to train another one, tokenizer.codebook_size, the generator's codes"
            )
        checkpoint = open_generator(run.start.generator, without_values(shape))
        run = _with_family(run, "generator", checkpoint.config)
    return run


def _with_family(run: RunConfig, role: Role, config: Any) -> RunConfig:
    if getattr(run.family, role) is not None:
        refuse_other_family(config, trained_family(run, role), getattr(run.start, role))
    return replace(run, family=replace(run.family, **{role: family_of(config).kind}))


def tokenizer_shape(run: RunConfig) -> Any:
    """The config of the tokenizer that a run starts from; without one, that which the settings describe."""
    if not run.start.tokenizer:
        return trained_config(run, "tokenizer")
    path = locate(run.start.tokenizer)
    written = path.stat().st_mtime_ns if path.exists() else None
    return _shape_in(path, written, **given_of(run))


@lru_cache(maxsize=4)
def _shape_in(path: Path, written: int | None, **given: Any) -> Any:
    """The config in a file that was `written` at that time: asked for often before a run begins, and read once."""
    return open_checkpoint(path, "tokenizer", **given).config


def given_of(run: RunConfig) -> dict[str, Any]:
    """What the settings say of the tokenizer that a run starts from, as `load_tokenizer` takes it."""
    return {"num_heads": run.start.num_heads, "image_size": run.start.image_size}


def open_generator(path: str | Path, tokenizer: Tokenizer) -> Checkpoint:
    """A stored generator; the tokenizer says how many tokens an image has, where the file does not."""
    tokens = tokenizer.num_tokens if is_discrete(tokenizer) else tokenizer.num_latents
    return open_checkpoint(locate(path), "generator", tokenizer_tokens=tokens)


def without_values(config: Any) -> Any:
    """The model of a config on the meta device. Raises UserError for sizes that do not fit together."""
    try:
        return meta_model(config)
    except ValueError as error:
        raise UserError(f"the settings of tokenizer or generator do not fit together: {error}") from None


def tokenizer_to_train(run: RunConfig) -> LoadedTokenizer:
    """The tokenizer that main training starts from, on the CPU; new weights come from torch's global generator.

    Raises: UserError for a stored tokenizer, or pretrained ViTs, of other shapes than the settings'.
    """
    family, config = trained_family(run, "tokenizer"), trained_config(run, "tokenizer")
    if run.start.tokenizer:
        model = _stored_tokenizer(run, family, config)
    else:
        model = family.build(config)
        if run.frozen.dinov2 and isinstance(model, ViTTokenizer):
            start_from_dinov2(model, run.frozen.dinov2)
    if isinstance(model, ViTTokenizer):
        tune(model, run.frozen)
    return model


def _stored_tokenizer(run: RunConfig, family: Family, config: Any) -> LoadedTokenizer:
    """A stored tokenizer with the settings `config`: those that change no tensor's shape (drop_path) may be others."""
    path = run.start.tokenizer
    stored = load_tokenizer(path, "model", **given_of(run))
    refuse_other_family(stored, family, path)
    refuse_other_shape(stored.config, config, family, path)
    model = family.build(config)
    # auxiliary decoders start anew: their targets are the run's
    model.load_state_dict({k: v for k, v in stored.state_dict().items() if not k.startswith("masked.")})
    return model


def refuse_other_family(stored: Any, family: Family, path: str) -> None:
    """Raises UserError for a stored model, or its config, of another family than the one that the settings name."""
    found = family_of(stored).kind
    if found != family.kind:
        raise UserError(
            f"start.{family.role}: {path} holds a {found}; expected a {family.kind}, as the settings describe "
            f"(or --family.{family.role} {found})"
        )


def refuse_other_shape(stored: Any, config: Any, family: Family, path: str) -> None:
    """Raises UserError for the config of a stored tokenizer whose tensors are others than those of `config`."""
    found, expected = ({family.section: shape_settings(c)} for c in (stored, config))
    cure = "give the run these settings of it, for images of another size start.image_size, too"
    refuse_other_settings(found, expected, f"start.tokenizer: {path}", cure)


def shape_settings(config: Any) -> dict[str, Any]:
    """The settings of a tokenizer that decide which tensors it has and their shapes, with defaults written out."""
    if isinstance(config, MAETokConfig):
        return maetok.shape_settings(config)
    if not isinstance(config, TokenizerConfig):
        return asdict(config)
    shape = asdict(config) | {"drop_path": None, "layer_scale": config.layer_scale is not None}
    for name in ("width", "depth", "heads"):
        shape[f"decoder_{name}"] = shape[f"decoder_{name}"] or shape[name]
    shape["num_latents"] = config.num_latents or area(patch_grid(config.image_size, config.patch_size))
    return shape


def generator_to_train(
    run: RunConfig, tokenizer: Tokenizer, num_classes: int, statistics: Mapping[str, Any] | None = None
) -> LoadedGenerator:
    """The generator that is trained on this tokenizer's tokens or latents, on the CPU; new weights as above.

    statistics: `mean` and `std` of each channel of the latents, which a new generator keeps.

    Raises: UserError for settings, or a stored generator, that do not fit the tokenizer or the data.
    """
    family = trained_family(run, "generator")
    if run.start.generator:
        model = build(open_generator(run.start.generator, tokenizer), "model")
        refuse_other_family(model, family, run.start.generator)
        take_statistics(model, tokenizer)
    else:
        decided = family.decided(tokenizer, num_classes, statistics)
        model = family.build(_fitted(trained_config(run, "generator"), family, decided))
    check_fits(tokenizer, model)
    return model


def _fitted(config: Any, family: Family, decided: Mapping[str, Any]) -> Any:
    """The generator's config with what the tokenizer and the data decide; another value given for it is refused."""
    for name, value in decided.items():
        given = getattr(config, name)
        if given not in (None, value):
            found = f"{family.section}.{name}: found {given}"
            raise UserError(f"{found}, but tokenizer and data have {value}; leave it out")
    return replace(config, **decided)
