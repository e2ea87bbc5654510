"""What models are measured by while they are trained: figures on the validation images."""

from __future__ import annotations

import torch

from ..core.device import on_the_host
from ..core.paths import FILE, found_at, given_path
from ..data.loader import in_order
from ..data.tokenization import encode_rows
from ..data.transforms import from_uint8
from ..evaluation import frechet_distance
from ..evaluation.features.inception import InceptionFeatures
from ..evaluation.passes import moments_in
from ..evaluation.perturbing import how_perturbable
from ..evaluation.reconstruction import mean_psnr
from ..evaluation.robustness import robustness
from ..generation.batches import decode_batches
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


class StoppingFigures:
    """Tokenizer -> Fréchet distances of the run's samples, decoded by it, from the validation images: gfd in the
    features of the run's classifier, gfd_filters in those of the untrained network, and their score.

    The score is the mean of both, each over what it was of the tokenizer that post-training starts from: 1 at the
    start, lower is better. It weighs both alike, however large their distances are, so that neither decides alone.
    """

    def __init__(self, job: Pipeline):
        """Trains the classifier where it is not there yet, draws the samples, and measures the start."""
        self.networks = {"gfd": job.features, "gfd_filters": job.second_features}
        self.rows, _ = job.sample("stop")  # a name from before there was validation; another would draw other samples
        self.reference = moments_in(self.networks, in_order(job.images.val))
        self.start = self._distances(job.load_tokenizer("tokenizer"))

    def __call__(self, tokenizer: LoadedTokenizer) -> dict[str, float]:
        found = self._distances(tokenizer)
        return found | {"score": sum(found[name] / self.start[name] for name in found) / len(found)}

    def _distances(self, tokenizer: LoadedTokenizer) -> dict[str, float]:
        moments = moments_in(self.networks, decode_batches(tokenizer, self.rows))
        return {name: frechet_distance(moments[name], self.reference[name]) for name in self.networks}


def held_out_rows(job: Pipeline, tokenizer: LoadedTokenizer) -> HeldOut:
    """Tokens or latents of the validation images."""
    images = job.images.val
    rows = (encode_rows(tokenizer, from_uint8(batch.to(job.run.device))) for batch in in_order(images))
    return HeldOut(torch.cat([*on_the_host(rows)]), images.labels, images.ids)


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
