"""What can be refused before a run begins: settings that are out of range or do not fit each other or the data."""

import math
import warnings
from dataclasses import fields, replace

import torch

from ..config import RunConfig, TrainingConfig
from ..core.errors import UserError
from ..data.images import Images
from ..models.generators.rar import RAR
from ..models.tokenizers.vit_tokenizer import Tokenizer


def check_settings(c: RunConfig) -> None:
    """Raises UserError naming the first setting that is out of range or contradicts another, with what was expected."""
    p, t, s = c.perturbation, c.tokenizer, c.sampling
    for name, value in (
        ("perturbation.alpha", p.alpha),
        ("perturbation.beta", p.beta),
        ("perturbation.anneal_end_ratio", p.anneal_end_ratio),
        ("pairs.sigma", c.pairs.sigma),
        ("generator.class_dropout", c.generator.class_dropout),
        ("generator.dropout", c.generator.dropout),
        ("tokenizer.drop_path", t.drop_path),
    ):
        _expect(0.0 <= value <= 1.0, name, value, "a share in [0, 1]")
    _expect(1 <= p.delta <= t.codebook_size, "perturbation.delta", p.delta,
            f"1 to tokenizer.codebook_size = {t.codebook_size}")  # fmt: skip
    _expect(p.anneal_start <= p.anneal_end, "perturbation.anneal_start", p.anneal_start,
            f"at most perturbation.anneal_end = {p.anneal_end}")  # fmt: skip
    _expect(t.image_size % t.patch_size == 0, "tokenizer.image_size", t.image_size,
            f"a multiple of tokenizer.patch_size = {t.patch_size}")  # fmt: skip
    _expect(t.width % t.heads == 0, "tokenizer.width", t.width, f"a multiple of tokenizer.heads = {t.heads}")
    g = c.generator
    _expect(g.width % g.heads == 0, "generator.width", g.width, f"a multiple of generator.heads = {g.heads}")
    _expect(s.temperature > 0, "sampling.temperature", s.temperature, "a positive number")
    _expect(0 < s.top_p <= 1, "sampling.top_p", s.top_p, "a share in (0, 1]")
    _expect(c.pairs.modes != (), "pairs.modes", c.pairs.modes, "at least one of reencode, direct")
    for name in (f.name for f in fields(c)):
        settings = getattr(c, name)
        if isinstance(settings, TrainingConfig):
            _check_training(name, settings)
    for f in fields(c.losses):
        value = getattr(c.losses, f.name)
        _expect(isinstance(value, str) or value >= 0, f"losses.{f.name}", value, "at least 0")
    for name, value in (
        ("log_every", c.log_every),
        ("stopping.every_epochs", c.stopping.every_epochs),
        ("stopping.patience", c.stopping.patience),
        ("sampling.batch_size", c.sampling.batch_size),
        ("evaluation.samples_per_class", c.evaluation.samples_per_class),
        ("pairs.per_image", c.pairs.per_image),
        ("tokenizer.codebook_size", t.codebook_size),
        ("tokenizer.code_width", t.code_width),
    ):
        _expect(value > 0, name, value, "a positive number")
    _check_shapes(c)
    _expect(c.name not in ("", ".", "..") and "/" not in c.name, "name", c.name, "the name of one folder")


def _check_shapes(c: RunConfig) -> None:
    """Builds the models without their values: what their constructors refuse is refused here."""
    shape = replace(c.generator, codebook_size=c.tokenizer.codebook_size, num_classes=1, num_tokens=1)
    try:
        with torch.device("meta"):
            Tokenizer(c.tokenizer)
            RAR(shape)
    except ValueError as error:
        raise UserError(f"the settings of tokenizer or generator do not fit together: {error}") from None


def _check_training(name: str, t: TrainingConfig) -> None:
    for setting in ("epochs", "batch_size", "accumulate", "save_every", "lr"):
        _expect(getattr(t, setting) > 0, f"{name}.{setting}", getattr(t, setting), "a positive number")
    _expect(t.batch_size % t.accumulate == 0, f"{name}.batch_size", t.batch_size,
            f"a multiple of {name}.accumulate = {t.accumulate}")  # fmt: skip
    _expect(0 <= t.ema < 1, f"{name}.ema", t.ema, "a decay in [0, 1)")
    _expect(t.clip_norm is None or t.clip_norm > 0, f"{name}.clip_norm", t.clip_norm, "a positive number or null")


def check_data(c: RunConfig, images: Images, world: int) -> None:
    """Raises UserError where a stage's batch does not fit the images or processes; warns where perturbation is off."""
    sizes = {"tokenizer_training": len(images.train), "generator_training": len(images.train),
             "post_training": len(images.train) * c.pairs.per_image, "classifier": len(images.train)}  # fmt: skip
    for name, count in sizes.items():
        t: TrainingConfig = getattr(c, name)
        _expect(t.batch_size <= count, f"{name}.batch_size", t.batch_size, f"at most the {count} training images")
        _expect(t.batch_size % (world * t.accumulate) == 0, f"{name}.batch_size", t.batch_size,
                f"a multiple of {world} processes x {t.accumulate} micro-batches")  # fmt: skip
    _expect(min(c.data.val, c.data.test) >= 2, "data.val, data.test", f"{c.data.val}, {c.data.test}",
            "at least 2 each, to compare distributions")  # fmt: skip
    beta, batch = c.perturbation.beta, c.tokenizer_training.batch_size
    if beta > 0 and math.floor(beta * batch) == 0:
        warnings.warn(
            f"perturbation.beta = {beta} of a batch of {batch} images is less than one image: no latent is perturbed. "
            f"Use tokenizer_training.batch_size >= {math.ceil(1 / beta)} or a larger beta",
            stacklevel=2,
        )


def _expect(fine: bool, name: str, found: object, expected: str) -> None:
    if not fine:
        raise UserError(f"{name}: found {found}, expected {expected}")
