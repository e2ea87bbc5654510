"""The stages of the main job, in order: what the result of each depends on, and what makes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch

from ..core.random import derive_seed
from ..data.latents import LatentSet, open_rows
from ..data.tokenization import EncodedImages
from ..generation.pairs import PairWriter
from ..models.interfaces import is_discrete
from ..models.starting import generator_to_train, tokenizer_to_train
from ..training.adversary import StoredAdversary, adversary_of_tokenizer, warmed_up_adversary
from ..training.loop import fit
from ..training.stages.base import Stage
from ..training.stages.classifier import ClassifierStage
from ..training.stages.decoder import MainTrainingStage
from ..training.stages.discriminator import DiscriminatorStage
from ..training.stages.generator import GeneratorStage
from ..training.stages.masked_tokenizer import MaskedTokenizerStage
from ..training.stages.post_training import PAIR_SECTIONS, PostTrainingStage
from ..training.stages.tokenizer import TokenizerStage
from .final_evaluation import evaluate_run
from .pipeline import JobStage, Pipeline
from .validation import StoppingFigures, ValidationFigures, held_out_rows


def training_stage(stage: type[Stage], make: Callable[[Pipeline], Stage]) -> JobStage:
    """A stage that the training loop runs; `make` builds it from what the stages before it have made."""

    def run(job: Pipeline) -> None:
        if not job.is_finished(stage.name):
            fit(make(job), job.run)

    return JobStage(stage.sections, run)


def make_classifier_stage(job: Pipeline) -> ClassifierStage:
    """Training of the small classifier of the run's own classes."""
    return ClassifierStage(job.run, job.images)


def make_tokenizer_stage(job: Pipeline) -> MainTrainingStage:
    """Main training of the tokenizer, discrete or continuous."""
    torch.manual_seed(job.config.seed)
    model = tokenizer_to_train(job.config).to(job.run.device)
    stage = TokenizerStage if is_discrete(model) else MaskedTokenizerStage
    figures = ValidationFigures(job) if job.config.validation.every_epochs else None
    return stage(job.run, job.images, job.frozen(model.config), model, figures)


def encode_training_images(job: Pipeline) -> None:
    """Tokens or latents of the training images, as shards."""
    if job.is_finished("tokens"):
        return
    with job.run.finishing("tokens", MainTrainingStage.sections):
        tokenizer, views = job.load_tokenizer("tokenizer"), job.config.data.token_views
        EncodedImages(tokenizer, job.images.train, job.run.folder / "tokens", augment=views).run_on_all_processes()


def make_generator_stage(job: Pipeline) -> GeneratorStage:
    """Training of the generator on the training images' tokens or latents."""
    tokenizer, rows = job.load_tokenizer("tokenizer"), job.training_tokens()
    torch.manual_seed(job.config.seed)
    statistics = rows.statistics() if isinstance(rows, LatentSet) else None
    model = generator_to_train(job.config, tokenizer, job.images.num_classes, statistics)
    return GeneratorStage(job.run, model.to(job.run.device), rows, cache(partial(held_out_rows, job, tokenizer)))


def write_pairs(job: Pipeline) -> None:
    """Generated tokens or latents beside every training image, in every mode."""
    if job.is_finished("pairs"):
        return
    tokenizer, c = job.load_tokenizer("tokenizer"), job.config
    seed, size = derive_seed(c.seed, "pairs"), job.sampling.batch_size
    with job.run.finishing("pairs", PAIR_SECTIONS):
        writer = PairWriter(c.pairs, job.images.train, tokenizer, job.sampler(), seed, size)
        writer.write(job.run.folder / "pairs", {"settings": job.run.settings(PAIR_SECTIONS)})


def warm_up_discriminator(job: Pipeline) -> None:
    """Training of a new discriminator, where losses ask for one and the tokenizer came without."""
    if job.is_finished("discriminator") or not job.config.losses.adversarial:
        return
    if job.tokenizer_checkpoint().discriminator:
        return
    fit(DiscriminatorStage(job.run, job.images, job.frozen(None), job.load_tokenizer("tokenizer")), job.run)


def adversary(job: Pipeline) -> StoredAdversary:
    """The discriminator that post-training goes on from: the tokenizer's own, else one that was warmed up for it."""
    warm_up_discriminator(job)
    if job.is_finished("discriminator"):
        return warmed_up_adversary(job.result("discriminator"))
    return adversary_of_tokenizer(job.tokenizer_checkpoint())


def post_train(job: Pipeline) -> None:
    """One post-trained decoder for each mode of the pairs."""
    job.is_finished("discriminator")  # refuses one that was warmed up under other settings
    figures = cache(partial(StoppingFigures, job))
    for mode, folder in job.post_folders().items():
        if job.is_finished(folder):
            continue
        stage = PostTrainingStage(
            job.run,
            folder,
            job.images,
            open_rows(job.run.folder / "pairs" / mode),
            job.frozen(None),
            job.load_tokenizer("tokenizer"),
            job.tokenizer_checkpoint().upstream,
            adversary(job),
            figures(),
        )
        fit(stage, job.run)


STAGES = {
    "classifier": training_stage(ClassifierStage, make_classifier_stage),
    "tokenizer": training_stage(MainTrainingStage, make_tokenizer_stage),
    "tokens": JobStage(MainTrainingStage.sections, encode_training_images),
    "generator": training_stage(GeneratorStage, make_generator_stage),
    "pairs": JobStage(PAIR_SECTIONS, write_pairs),
    "discriminator": JobStage(DiscriminatorStage.sections, warm_up_discriminator),
    "post": JobStage(PostTrainingStage.sections, post_train),
    "evaluate": JobStage((), evaluate_run),
}
