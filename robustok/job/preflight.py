"""Refuses what cannot work before a run begins: settings out of range, or that do not fit each other or the data."""

from collections.abc import Collection
from operator import attrgetter

from ..config import RunConfig, TrainingConfig
from ..core.device import resolve_device
from ..core.errors import UserError
from ..core.paths import FILE, FOLDER, found_at, given_path
from ..models.interfaces import is_discrete, makes_latents
from ..models.load import check_fits
from ..models.registry import trained_config
from ..models.tokenizers.perturbation import kind_for
from ..ops.perturbation import NOISE_KINDS, uses
from ..training.trackers import check_tracker
from .decisions import examples
from .limits import check_limits
from .outline import Outline
from .relations import check_relations, expect
from .validation import check_validation

FROZEN = {"frozen.dinov2": FILE, "frozen.dino": FILE, "frozen.lpips": FOLDER}
LOOKING = {"classifier", "tokenizer", "post"}  # stages whose losses look through these, or a classifier in their place


def check_settings(c: RunConfig) -> None:
    """Raises UserError naming a setting that contradicts another or this machine, with what was expected. Each alone is
    what its field says (`core.settings.check_config`).
    """
    resolve_device(c.device)
    check_tracker(c.tracker)
    check_relations(c)


def check_stages(c: RunConfig, stages: Collection[str]) -> None:
    """Raises UserError where a stage cannot be run with these settings."""
    if "tokenizer" in stages:
        trained_config(c, "tokenizer")
    if {"tokenizer", "post"} & set(stages):
        for name in FROZEN:
            path = attrgetter(name)(c)
            fits = path is None or found_at(given_path(path)) == FROZEN[name]
            expect(fits, name, path, f"a path that {FROZEN[name]}")


def check_run(run: Outline, world: int) -> None:
    """Raises UserError where models do not fit each other, a model or a stage's batch does not fit the images or
    processes, and where a classifier of one class would stand in for pretrained networks.
    """
    c, images = run.config, run.images
    check_relations(c)
    _check_shapes(run)
    check_validation(run)
    unnamed = [name for name in FROZEN if attrgetter(name)(c) is None]
    if images.num_classes == 1 and unnamed and LOOKING & set(run.stages):
        raise UserError(
            f"data.root: {c.data.root} holds one class ({images.class_names[0]}), and {', '.join(unnamed)} name no "
            f"pretrained networks: the classifier of the data that stands in for them would learn nothing, and losses "
            f"and distances that look through it would mean nothing. Sort the images into one sub-folder a class, or "
            f"name all of {', '.join(FROZEN)}"
        )
    check_limits(run)
    for name, count in examples(c, images).items():
        t: TrainingConfig = getattr(c, name)
        expect(t.batch_size <= count, f"{name}.batch_size", t.batch_size, f"at most the {count} examples of an epoch")
        parts = f"a multiple of {world} processes x {t.accumulate} micro-batches"
        expect(t.batch_size % (world * t.accumulate) == 0, f"{name}.batch_size", t.batch_size, parts)


def _check_shapes(run: Outline) -> None:
    """Looks at the models without their values: what their constructors refuse is refused here, a generator that does
    not make what the tokenizer decodes, and more neighbours than the tokenizer has codes.
    """
    if run.config.start.generator or makes_latents(run.generator):
        check_fits(run.tokenizer, run.generator)
    if run.trained_tokenizer is not None:
        _check_perturbation(run.config, run.trained_tokenizer)


def _check_perturbation(c: RunConfig, tokenizer) -> None:
    """Refuses a kind that the tokenizer's latents cannot have, and a strength or delta that does not fit the kind."""
    p = c.perturbation
    try:
        kind = kind_for(tokenizer, p.kind)
    except ValueError as error:
        raise UserError(f"perturbation.kind: {error}; expected gaussian, interpolate, mask or null") from None
    if is_discrete(tokenizer) and uses(kind, "delta"):
        codes = tokenizer.codebook.shape[-2]
        expect(p.delta <= codes, "perturbation.delta", p.delta, f"1 to {codes}, the number of codes")
    if kind in NOISE_KINDS:
        limits = "[0, 1]" if kind == "interpolate" else "[0, inf)"
        fits = p.strength is not None and (kind != "interpolate" or p.strength <= 1)
        expect(fits, "perturbation.strength", p.strength, f"a number in {limits} for perturbation.kind {kind}")
    else:
        none = f"null: perturbation.kind {kind or 'null'} has none"
        expect(p.strength is None, "perturbation.strength", p.strength, none)
