"""The stages of the main job, in order: what the result of each depends on, and what makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoints import writing as checkpoints
from ..checkpoints.settings import refuse_other_settings
from ..config import TokenizerConfig
from ..core import distributed
from ..core.errors import UserError
from ..core.progress import Progress
from ..core.random import derive_seed
from ..data.tokenization import encode_images
from ..data.tokens import open_tokens
from ..generation.pairs import PairWriter
from ..models.load import check_codebooks, load_generator, load_tokenizer, open_checkpoint
from ..models.registry import family_of
from ..models.tokenizers.tuning import start_from_dinov2, tune
from ..models.tokenizers.vit_tokenizer import ViTTokenizer
from ..training.loop import fit
from ..training.stages.base import Stage
from ..training.stages.classifier import ClassifierStage
from ..training.stages.generator import GeneratorStage
from ..training.stages.post_training import PAIR_SECTIONS, PostTrainingStage
from ..training.stages.tokenizer import TokenizerStage
from .judge import evaluate
from .pipeline import JobStage, Pipeline


def training_stage(stage: type[Stage], make: Callable[[Pipeline], Stage]) -> JobStage:
    """A stage that the training loop runs; `make` builds it from what the stages before it have made."""

    def run(job: Pipeline) -> None:
        if not job.is_finished(stage.name):
            fit(make(job), job.run)

    return JobStage(stage.sections, run)


def make_classifier_stage(job: Pipeline) -> ClassifierStage:
    return ClassifierStage(job.run, job.images)


def make_tokenizer_stage(job: Pipeline) -> TokenizerStage:
    """Training of a new tokenizer, of one on pretrained ViTs, or of the one that the settings start from."""
    c = job.config
    torch.manual_seed(c.seed)
    if c.start.tokenizer:
        model = _tokenizer_to_go_on_with(c.start.tokenizer, c.start.num_heads, c.tokenizer)
    else:
        model = ViTTokenizer(c.tokenizer)
        if c.frozen.dinov2:
            start_from_dinov2(model, c.frozen.dinov2)
    tune(model, c.frozen)
    return TokenizerStage(job.run, job.images, job.frozen, model.to(job.run.device))


def _tokenizer_to_go_on_with(path: str, num_heads: int | None, config: TokenizerConfig) -> ViTTokenizer:
    """The stored tokenizer under these settings. Raises UserError where its tensors have other shapes."""
    model = load_tokenizer(path, "model", num_heads)
    stored, now = (shape_settings(c) for c in (model.config, config))
    refuse_other_settings({"tokenizer": stored}, {"tokenizer": now}, Path(path))
    continued = ViTTokenizer(config)
    continued.load_state_dict(model.state_dict())
    return continued


def shape_settings(config: TokenizerConfig) -> dict:
    """The settings of a tokenizer that decide the shapes of its tensors, defaults written out."""
    shape = asdict(config) | {"drop_path": None, "layer_scale": config.layer_scale is not None}
    for name in ("width", "depth", "heads"):
        shape[f"decoder_{name}"] = shape[f"decoder_{name}"] or shape[name]
    shape["num_latents"] = config.num_latents or (config.image_size // config.patch_size) ** 2
    return shape


def write_tokens(job: Pipeline) -> None:
    """Tokens of the training images, as shards."""
    if job.is_finished("tokens"):
        return
    with job.run.finishing("tokens", TokenizerStage.sections):
        tokenizer, views = job.load_tokenizer("tokenizer"), job.config.data.token_views
        work = encode_images(tokenizer, job.images.train, job.run.folder / "tokens", augment=views)
        with Progress("tokens") as progress:
            work.run(rank=distributed.rank(), world=distributed.world(), progress=progress.show)
        distributed.barrier()
        if distributed.is_main():
            work.finish()
        distributed.barrier()


def make_generator_stage(job: Pipeline) -> GeneratorStage:
    """Training of a new generator, or of the one that the settings start from, on the training images' tokens."""
    tokenizer, tokens = job.load_tokenizer("tokenizer"), job.training_tokens()
    torch.manual_seed(job.config.seed)
    start = job.config.start.generator
    model = load_generator(start, "model") if start else _new_generator(job, tokenizer)
    check_codebooks(tokenizer, model)
    return GeneratorStage(job.run, model.to(job.run.device), tokens)


def _new_generator(job: Pipeline, tokenizer: ViTTokenizer) -> nn.Module:
    """A generator of the settings and of what tokenizer and data decide; a different given value is refused."""
    decided = {
        "codebook_size": len(tokenizer.codebook),
        "num_classes": job.images.num_classes,
        "num_tokens": tokenizer.num_tokens,
    }
    for name, value in decided.items():
        given = getattr(job.config.generator, name)
        if given not in (None, value):
            raise UserError(f"generator.{name}: found {given}, but tokenizer and data have {value}; leave it out")
    config = replace(job.config.generator, **decided)
    return family_of(config).build(config)


def make_pairs(job: Pipeline) -> None:
    """Generated tokens beside every training image, in every mode."""
    if job.is_finished("pairs"):
        return
    tokenizer, c = job.load_tokenizer("tokenizer"), job.config
    seed, size = derive_seed(c.seed, "pairs"), c.sampling.batch_size
    with job.run.finishing("pairs", PAIR_SECTIONS):
        writer = PairWriter(c.pairs, job.images.train, tokenizer, job.sampler(), seed, size)
        writer.write(job.run.folder / "pairs", {"settings": job.run.settings(PAIR_SECTIONS)})


def post_train(job: Pipeline) -> None:
    """One post-trained decoder per mode of the pairs; the first is `post`, the others `post-MODE`."""
    discriminator, lecam = _adversary_state(job)
    for mode in job.config.pairs.modes:
        folder = job.post_folder(mode)
        if job.is_finished(folder):
            continue
        stage = PostTrainingStage(
            job.run,
            folder,
            job.images,
            open_tokens(job.run.folder / "pairs" / mode),
            job.frozen,
            job.load_tokenizer("tokenizer"),
            discriminator,
            lecam,
            job.stopping_distance,
        )
        fit(stage, job.run)


def _adversary_state(job: Pipeline) -> tuple[dict[str, Tensor], Tensor]:
    """Weights of main training's discriminator (none for a model that came without) and its LeCAM averages."""
    path = job.result("tokenizer")
    weights = open_checkpoint(path, "tokenizer", num_heads=job.config.start.num_heads).discriminator
    training = checkpoints.load(path, "training")[0] if (path / "training.safetensors").is_file() else {}
    return weights, training.get("extra.lecam", torch.zeros(2, dtype=torch.float64))


def judge_run(job: Pipeline) -> None:
    """Judges the run on the main process; what that needs and is not there yet, all processes make together."""
    _ = job.features  # trains the classifier on first use
    job.training_tokens()
    if distributed.is_main():
        evaluate(job)


STAGES = {
    "classifier": training_stage(ClassifierStage, make_classifier_stage),
    "tokenizer": training_stage(TokenizerStage, make_tokenizer_stage),
    "tokens": JobStage(TokenizerStage.sections, write_tokens),
    "generator": training_stage(GeneratorStage, make_generator_stage),
    "pairs": JobStage(PAIR_SECTIONS, make_pairs),
    "post": JobStage(PostTrainingStage.sections, post_train),
    "evaluate": JobStage((), judge_run),
}
