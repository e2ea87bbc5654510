"""What tokenizer and generator are measured by while they are trained: figures on the validation images."""

from __future__ import annotations

import torch

from ..core.paths import FILE, found_at, given_path
from ..data.loader import in_order
from ..data.tokenization import encode_rows
from ..data.transforms import from_uint8
from ..evaluation.features.inception import InceptionFeatures
from ..evaluation.perturbing import how_perturbable
from ..evaluation.reconstruction import mean_psnr
from ..evaluation.robustness import robustness
from ..models.interfaces import LoadedTokenizer, is_discrete
from ..training.stages.generator import HeldOut
from .outline import Outline
from .pipeline import Pipeline
from .relations import expect


class ValidationFigures:
    """Tokenizer -> psnr and rfd of plain reconstructions of the validation images, and what its kind allows of pfd and
    nfd: the mean over three settings, as `evaluate --pfid quick`.

    Distances are of the run's own classifier, or of Inception where the settings name its weights. What is drawn
    depends on the image alone, so that figures of two steps differ by the weights.
    """

    def __init__(self, job: Pipeline):
        """Trains the classifier where it is needed and not there yet."""
        weights = job.config.validation.inception
        self.features = job.features if weights is None else InceptionFeatures(weights, device=job.run.device)
        self.images = job.images.val

    def __call__(self, tokenizer: LoadedTokenizer) -> dict[str, float]:
        images = self.images
        found = robustness(tokenizer, lambda: in_order(images), self.features, quick=True).estimates()
        return {"psnr": mean_psnr(tokenizer, in_order(images)), **{name: float(value) for name, value in found.items()}}


def held_out_rows(job: Pipeline, tokenizer: LoadedTokenizer) -> HeldOut:
    """Tokens or latents of the validation images."""
    images = job.images.val
    rows = [encode_rows(tokenizer, from_uint8(batch.to(job.run.device))).cpu() for batch in in_order(images)]
    return HeldOut(torch.cat(rows), images.labels, images.ids)


def check_validation(run: Outline) -> None:
    """Raises UserError where a stage is to keep its best by a figure that it does not have, or without validation, and
    where Inception's weights are no file.
    """
    c, tokenizer = run.config, run.trained_tokenizer
    path = c.validation.inception
    expect(path is None or found_at(given_path(path)) == FILE, "validation.inception", path, f"a path that {FILE}")
    figures = {"generator_training": ["loss"]}
    if tokenizer is not None:
        wrong = "nfd" if not is_discrete(tokenizer) else "pfd" if how_perturbable(tokenizer) != "none" else None
        figures["tokenizer_training"] = ["rfd", "psnr", *([wrong] if wrong else [])]
    for section in ("classifier", "tokenizer_training", "generator_training", "post_training"):
        chosen, known = getattr(c, section).keep_best_by, figures.get(section, [])
        if chosen is not None:
            name = f"{section}.keep_best_by"
            expect(chosen in known, name, chosen, f"{', '.join(known)} or null" if known else "null")
            expect(c.validation.every_epochs is not None, name, chosen, "null without validation.every_epochs")
