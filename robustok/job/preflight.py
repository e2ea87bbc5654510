"""Refuses what cannot work before a run begins: settings out of range, or that do not fit each other or the data."""

import math
import warnings
from collections.abc import Collection
from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path

from ..config import RunConfig, TrainingConfig
from ..core.device import check_device_name
from ..core.errors import UserError
from ..core.random import MAX_SEED
from ..data.images import Images
from ..models.interfaces import is_discrete, makes_latents
from ..models.load import check_fits
from ..models.registry import Role, families, sampler_settings, trained_config, trained_family
from ..models.starting import open_generator, tokenizer_shape, without_values
from ..models.tokenizers.perturbation import kind_for
from ..ops.perturbation import NOISE_KINDS, uses
from ..samplers.flow import FlowSettings
from ..samplers.settings import SamplingSettings
from .limits import check_limits
from .model_ranges import check_ranges

ROLES: tuple[Role, ...] = ("tokenizer", "generator")

SHARES = (
    "perturbation.alpha",
    "perturbation.beta",
    "perturbation.anneal_end_ratio",
    "pairs.sigma",
)
POSITIVE = (
    "log_every",
    "stopping.every_epochs",
    "stopping.patience",
    "sampling.batch_size",
    "flow_sampling.batch_size",
    "evaluation.samples_per_class",
    "pairs.per_image",
    "discriminator_warmup.epochs",
    "discriminator_warmup.lr",
)

FROZEN = ("frozen.dinov2", "frozen.dino", "frozen.lpips")
LOOKING = {"classifier", "tokenizer", "post"}  # stages whose losses look through these, or a classifier in their place


def check_settings(c: RunConfig) -> None:
    """Raises UserError naming a setting that is out of range or contradicts another, with what was expected.

    Settings of families that the run does not train do not matter.
    """
    check_device_name(c.device)
    for name in ("seed", "data.split_seed"):
        _expect(c, name, 0 <= attrgetter(name)(c) <= MAX_SEED, f"a whole number from 0 to {MAX_SEED}")
    for name in SHARES:
        _expect(c, name, 0.0 <= attrgetter(name)(c) <= 1.0, "a share in [0, 1]")
    for name in POSITIVE:
        _expect(c, name, attrgetter(name)(c) > 0, "a positive number")
    p = c.perturbation
    at_most = f"at most perturbation.anneal_end = {p.anneal_end}"
    _expect(c, "perturbation.anneal_start", p.anneal_start <= p.anneal_end, at_most)
    for section in {trained_family(c, role).section for role in ROLES} - {None}:
        check_ranges(getattr(c, section), section)
    for section, settings in (("sampling", SamplingSettings), ("flow_sampling", FlowSettings)):
        _check_sampling(c, section, settings)
    _expect(c, "pairs.modes", c.pairs.modes != (), "at least one of reencode, direct")
    _expect(c, "name", c.name not in ("", ".", "..") and "/" not in c.name, "the name of one folder")
    for f in fields(c.losses):
        weight = getattr(c.losses, f.name)
        _expect(c, f"losses.{f.name}", isinstance(weight, str) or weight >= 0, "at least 0")
    for f in fields(c):
        if isinstance(getattr(c, f.name), TrainingConfig):
            _check_training(c, f.name)
    _check_shapes(c)


def check_stages(c: RunConfig, stages: Collection[str]) -> None:
    """Raises UserError where a stage cannot be run with these settings."""
    if "tokenizer" in stages:
        trained_config(c, "tokenizer")
    if {"tokenizer", "post"} & set(stages):
        for name in FROZEN:
            path = attrgetter(name)(c)
            _expect(c, name, path is None or Path(path).expanduser().exists(), "a path that exists")


def _check_shapes(c: RunConfig) -> None:
    """Builds the models without their values: what their constructors refuse is refused here, a generator that does not
    make what the tokenizer decodes, and more neighbours than the tokenizer has codes.
    """
    tokenizer, of_generator = without_values(tokenizer_shape(c)), trained_family(c, "generator")
    if c.start.generator:
        check_fits(tokenizer, without_values(open_generator(c.start.generator, tokenizer).config))
    else:
        decided = of_generator.decided(tokenizer, 1)
        generator = without_values(replace(trained_config(c, "generator"), **decided))
        if makes_latents(generator):
            check_fits(tokenizer, generator)
    if trained_family(c, "tokenizer").section is None:
        return
    _check_perturbation(c, without_values(trained_config(c, "tokenizer")))


def _check_perturbation(c: RunConfig, tokenizer) -> None:
    """Refuses a kind that the tokenizer's latents cannot have, and a strength or delta that does not fit the kind."""
    p = c.perturbation
    try:
        kind = kind_for(tokenizer, p.kind)
    except ValueError as error:
        raise UserError(f"perturbation.kind: {error}; expected gaussian, interpolate, mask or null") from None
    if is_discrete(tokenizer) and uses(kind, "delta"):
        codes = tokenizer.codebook.shape[-2]
        _expect(c, "perturbation.delta", 1 <= p.delta <= codes, f"1 to {codes}, the number of codes")
    if kind in NOISE_KINDS:
        top, limits = (1, "0 to 1") if kind == "interpolate" else (math.inf, "at least 0")
        fits = p.strength is not None and 0 <= p.strength <= top
        _expect(c, "perturbation.strength", fits, f"a number, {limits}, for perturbation.kind {kind}")
    else:
        _expect(c, "perturbation.strength", p.strength is None, f"null: perturbation.kind {kind or 'null'} has none")


def _check_sampling(c: RunConfig, section: str, settings: type) -> None:
    """Refuses what the sampler of a kind of generator would."""
    try:
        settings(**sampler_settings(getattr(c, section)))
    except UserError as error:
        raise UserError(f"{section}.{error}") from None


def _check_training(c: RunConfig, name: str) -> None:
    t: TrainingConfig = getattr(c, name)
    for setting in ("epochs", "batch_size", "accumulate", "save_every", "lr"):
        _expect(c, f"{name}.{setting}", getattr(t, setting) > 0, "a positive number")
    micro_batches = f"a multiple of {name}.accumulate = {t.accumulate}"
    _expect(c, f"{name}.batch_size", t.batch_size % t.accumulate == 0, micro_batches)
    _expect(c, f"{name}.ema", 0 <= t.ema < 1, "a decay in [0, 1)")
    _expect(c, f"{name}.clip_norm", t.clip_norm is None or t.clip_norm > 0, "a positive number or null")


def check_data(c: RunConfig, images: Images, stages: Collection[str], world: int) -> None:
    """Raises UserError where a model or a stage's batch does not fit the images or processes, and where a classifier of
    one class would stand in for pretrained networks; warns where perturbation is off.
    """
    unnamed = [name for name in FROZEN if attrgetter(name)(c) is None]
    if images.num_classes == 1 and unnamed and LOOKING & set(stages):
        raise UserError(
            f"data.root: {c.data.root} holds one class ({images.class_names[0]}), and {', '.join(unnamed)} name no "
            f"pretrained networks: the classifier of the data that stands in for them would learn nothing, and losses "
            f"and distances that look through it would mean nothing. Sort the images into one sub-folder a class, or "
            f"name all of {', '.join(FROZEN)}"
        )
    check_limits(c, images, stages)
    count = len(images.train)
    sizes = dict.fromkeys(("tokenizer_training", "generator_training", "classifier"), count)
    sizes["post_training"] = count * c.pairs.per_image
    for name, count in sizes.items():
        t: TrainingConfig = getattr(c, name)
        _expect(c, f"{name}.batch_size", t.batch_size <= count, f"at most the {count} training images")
        parts = f"a multiple of {world} processes x {t.accumulate} micro-batches"
        _expect(c, f"{name}.batch_size", t.batch_size % (world * t.accumulate) == 0, parts)
    for name in ("data.val", "data.test"):
        _expect(c, name, attrgetter(name)(c) >= 2, "at least 2 images, to compare distributions")
    beta, batch = c.perturbation.beta, c.tokenizer_training.batch_size
    if beta > 0 and math.floor(beta * batch) == 0:
        warnings.warn(
            f"perturbation.beta = {beta} of a batch of {batch} images is less than one image: no latent is perturbed. "
            f"Use tokenizer_training.batch_size >= {math.ceil(1 / beta)} or a larger beta",
            stacklevel=2,
        )


def _expect(c: RunConfig, name: str, holds: bool, expected: str) -> None:
    """Raises UserError with the value of the dotted setting `name` unless the condition holds.

    What is set for a family that the run does not train is passed over.
    """
    trained = {trained_family(c, role).section for role in ("tokenizer", "generator")}
    others = {family.section for family in families()} - trained
    if not holds and name.partition(".")[0] not in others:
        raise UserError(f"{name}: found {attrgetter(name)(c)}, expected {expected}")
