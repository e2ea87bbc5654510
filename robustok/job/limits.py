"""What depends on a setting times the size of the data, refused before a run begins and not in the middle of it."""

from ..config import RunConfig
from ..core.errors import UserError
from ..data.images import Images
from ..data.tokens import MAX_CODES
from ..models.interfaces import is_discrete
from ..models.registry import trained_family
from ..models.starting import refuse_other_shape
from .outline import Outline
from .relations import expect

STORED = {"tokens", "generator", "pairs", "post", "evaluate"}  # stages that write or read tokens on disk


def check_limits(run: Outline) -> None:
    """Raises UserError where codebook, tokenizer, generator or the classifier of another run do not fit how many images
    and classes there are.
    """
    c, images, stages = run.config, run.images, run.stages
    if c.start.classifier is not None:
        known, expected = run.classifier.head.out_features, f"one of the {images.num_classes} classes of the data"
        expect(known == images.num_classes, "start.classifier", f"a classifier of {known} classes", expected)
    if is_discrete(run.tokenizer):
        codes = run.tokenizer.codebook.shape[-2]
        if codes > MAX_CODES and STORED & set(stages):
            raise UserError(
                f"codebook_size: the tokenizer has {codes} codes, but tokens are stored as 16 bits, expected at most "
                f"{MAX_CODES} codes for the stages {', '.join(s for s in stages if s in STORED)}; --stage tokenizer "
                "alone can train it"
            )
        if "tokenizer" in stages and run.trained_tokenizer is not None:
            if c.start.tokenizer:
                family = trained_family(c, "tokenizer")
                refuse_other_shape(run.tokenizer.config, run.trained_tokenizer.config, family, c.start.tokenizer)
            _check_kmeans(c, run.trained_tokenizer, images)
            _check_restarts(c, run.trained_tokenizer)
            _check_teacher(c, run.classifier.width)
    if STORED & set(stages):
        _check_classes(run)
    samples = c.evaluation.samples_per_class * images.num_classes
    if samples < 2 and {"post", "evaluate"} & set(stages):
        raise UserError(f"evaluation.samples_per_class: found {samples} of one class, expected at least 2")


def _check_kmeans(c: RunConfig, tokenizer, images: Images) -> None:
    """K-means needs a latent for each code; the codebook is set by it after `continuous_steps`."""
    if c.codebook.continuous_steps <= 0:
        return
    if tokenizer.codebook.ndim > 2:
        raise UserError(
            f"codebook.continuous_steps: found {c.codebook.continuous_steps}, expected 0 for a tokenizer of "
            f"{len(tokenizer.codebook)} codebooks, which k-means does not set"
        )
    codes, latents = len(tokenizer.codebook), len(images.train) * tokenizer.num_latents
    if codes > latents:
        raise UserError(
            f"tokenizer.codebook_size: found {codes}, expected at most {latents}, the latents of {len(images.train)} "
            f"training images, of which k-means makes the codes; or codebook.continuous_steps 0"
        )


def _check_restarts(c: RunConfig, tokenizer) -> None:
    """A code is set on a latent, which must be what it is compared with."""
    if c.codebook.restart_dead_after is not None and tokenizer.perturbable != "codes":
        raise UserError(
            f"codebook.restart_dead_after: found {c.codebook.restart_dead_after}, expected null for a tokenizer whose "
            f"latents are not single codes of one codebook"
        )


def _check_teacher(c: RunConfig, teacher: int) -> None:
    """The classifier that stands in for DINOv2 is as wide as it is, and its feature goes through the tokenizer."""
    if c.frozen.dinov2:
        return  # read at the tokenizer's own width
    if teacher > c.tokenizer.width:
        raise UserError(
            f"tokenizer.width: found {c.tokenizer.width}, expected at least {teacher}, the width of the classifier of "
            "the data, whose feature the semantic loss aims at (no frozen.dinov2 is named)"
        )


def _check_classes(run: Outline) -> None:
    """A generator must know every class of the data."""
    c, images = run.config, run.images
    if c.start.generator:
        known, name = run.generator.num_classes, "start.generator"
        fits, expected = known >= images.num_classes, f"at least the {images.num_classes} classes of the data"
    else:
        section = trained_family(c, "generator").section
        known, name = getattr(getattr(c, section), "num_classes", None), f"{section}.num_classes"
        fits, expected = known in (None, images.num_classes), f"null, or the {images.num_classes} of the data"
    if not fits:
        raise UserError(f"{name}: found {known} classes, expected {expected}")
