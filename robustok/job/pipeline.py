"""The main job, stage by stage: classifier, tokenizer, generator, pairs, post-training; finished ones are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints import writing as checkpoints
from ..config import RARConfig, TokenizerConfig
from ..core import distributed
from ..core.errors import UserError
from ..core.files import read_json
from ..core.progress import Progress
from ..core.random import derive_seed
from ..data.images import Images, ImageSplit, open_images
from ..data.loader import prefetch
from ..data.tokenization import ImageTokens
from ..data.tokens import TokenSet, open_tokens
from ..data.transforms import to_uint8
from ..evaluation import FeatureStatistics, frechet_distance
from ..evaluation.features.classifier import ClassifierFeatures
from ..generation.batches import generate_batches
from ..generation.pairs import PairWriter
from ..models.frozen.classifier import Classifier
from ..models.frozen.dino import load_backbone, load_teacher
from ..models.frozen.lpips import load_lpips
from ..models.frozen.networks import FrozenNetworks, from_classifier
from ..models.generators.rar import RAR
from ..models.interfaces import Sampler
from ..models.load import check_codebooks, load_generator, load_tokenizer, locate, open_checkpoint
from ..models.tokenizers.tuning import start_from_dinov2, tune
from ..models.tokenizers.vit_tokenizer import Tokenizer
from ..training.loop import fit
from ..training.run import Run
from ..training.stages.generator import ClassifierStage, GeneratorStage
from ..training.stages.tokenizer import PostStage, TokenizerStage

BATCH = 128  # images a forward pass where nothing is learned


class Pipeline:
    """The stages of one run; each method runs its stage to the end or finds it finished."""

    def __init__(self, run: Run):
        self.run, self.config = run, run.config
        self.images: Images = open_images(run.config.data, run.config.tokenizer.image_size)
        run.images_fingerprint = self.images.all.fingerprint()

    @cached_property
    def frozen(self) -> FrozenNetworks:
        """The networks that losses look through: those of the files named, else the run's classifier."""
        paths, shape, device = self.config.frozen, self.config.tokenizer, self.run.device
        named = {}
        if paths.dinov2:
            named["teacher"] = load_teacher(paths.dinov2, shape).to(device)
        if paths.lpips:
            named["perceptual"] = load_lpips(paths.lpips).to(device)
        if paths.dino:
            named["backbone"] = load_backbone(paths.dino).to(device)
        return FrozenNetworks(**named) if len(named) == 3 else replace(from_classifier(self.classifier), **named)

    @cached_property
    def classifier(self) -> Classifier:
        """The small classifier of the run's own classes, trained on first use."""
        if not self.run.is_finished("classifier"):
            fit(ClassifierStage(self.run, self.images), self.run)
        folder = self._result("classifier")
        model = Classifier(**read_json(folder / "config.json")["config"])
        model.load_state_dict(checkpoints.load(folder, "ema")[0])
        return model.to(self.run.device)

    @cached_property
    def features(self) -> ClassifierFeatures:
        """What Fréchet distances and class agreement look through."""
        return ClassifierFeatures(self.classifier, self.distance_name)

    @property
    def distance_name(self) -> str:
        root = self.config.data.root
        return "FD-digits" if root is None else f"FD-{Path(root).resolve().name}"

    def tokenizer(self) -> None:
        if self.run.is_finished("tokenizer"):
            return
        torch.manual_seed(self.config.seed)
        if self.config.start.tokenizer:
            model = self._started(self.config.start.tokenizer)
        else:
            model = Tokenizer(self.config.tokenizer)
            if self.config.frozen.dinov2:
                start_from_dinov2(model, self.config.frozen.dinov2)
        tune(model, self.config.frozen)
        model.to(self.run.device)
        fit(TokenizerStage(self.run, self.images, self.frozen, model), self.run)

    def _started(self, path: str) -> Tokenizer:
        """The tokenizer to go on training from; its shape must be that of the settings."""
        model = load_tokenizer(path, "model", self.config.start.num_heads)
        stored, now = (_shape(c) for c in (model.config, self.config.tokenizer))
        checkpoints.refuse_other_settings({"tokenizer": stored}, {"tokenizer": now}, Path(path))
        continued = Tokenizer(self.config.tokenizer)
        continued.load_state_dict(model.state_dict())
        return continued

    def generator(self) -> None:
        """Tokens of the training images once, then RAR on them."""
        if self.run.is_finished("generator"):
            return
        tokenizer = self.load_tokenizer("tokenizer")
        tokens = self.training_tokens()
        torch.manual_seed(self.config.seed)
        start = self.config.start.generator
        model = load_generator(start, "model") if start else RAR(self._generator_shape(tokenizer))
        check_codebooks(tokenizer, model)
        fit(GeneratorStage(self.run, model.to(self.run.device), tokens), self.run)

    def pairs(self) -> None:
        """Generated tokens beside every training image, in every mode."""
        if self.run.is_finished("pairs"):
            return
        tokenizer, c = self.load_tokenizer("tokenizer"), self.config
        seed, size = derive_seed(c.seed, "pairs"), c.sampling.batch_size
        with self.run.finishing("pairs"):
            maker = PairWriter(c.pairs, self.images.train, tokenizer, self._sampler(), seed, size)
            maker.write(self.run.folder / "pairs", {"settings": self.run.settings("pairs")})

    def post(self) -> None:
        """One post-trained decoder per mode of the pairs; the first is `post`, the others `post-MODE`."""
        discriminator, lecam = self._adversary_state()
        for mode in self.config.pairs.modes:
            name = self.post_folder(mode)
            if self.run.is_finished("post", name):
                continue
            pairs = open_tokens(self.run.folder / "pairs" / mode)
            stage = PostStage(
                self.run, name, self.images, pairs, self.frozen, self.load_tokenizer("tokenizer"),
                discriminator, lecam, self._stopping_distance,
            )  # fmt: skip
            fit(stage, self.run)

    def _adversary_state(self) -> tuple[dict[str, Tensor], Tensor]:
        """Weights of main training's discriminator (none for a model that came without) and its LeCAM averages."""
        path = self._result("tokenizer")
        weights = open_checkpoint(path, "tokenizer", num_heads=self.config.start.num_heads).discriminator
        training = checkpoints.load(path, "training")[0] if (path / "training.safetensors").is_file() else {}
        return weights, training.get("extra.lecam", torch.zeros(2, dtype=torch.float64))

    def prepare_evaluation(self) -> None:
        """What all processes make together before one of them judges: the classifier, and the training tokens."""
        _ = self.features  # trains the classifier on first use
        self.training_tokens()

    def post_folder(self, mode: str) -> str:
        return "post" if mode == self.config.pairs.modes[0] else f"post-{mode}"

    def load_tokenizer(self, stage: str) -> Tokenizer:
        heads = self.config.start.num_heads
        return load_tokenizer(self._result(stage), num_heads=heads).to(self.run.device).eval()

    def training_tokens(self) -> TokenSet:
        """The tokens of the training images, made on first use."""
        if not self.run.is_finished("tokens"):
            with self.run.finishing("tokens"):
                self._write_tokens(self.load_tokenizer("tokenizer"))
        return open_tokens(self.run.folder / "tokens")

    def sample(self, per_class: int, purpose: str) -> tuple[Tensor, Tensor]:
        """(tokens (n, L), classes (n,)) with the run's sampling settings; `purpose` names the seed."""
        classes = torch.arange(self.images.num_classes).repeat_interleave(per_class)
        seed, size = derive_seed(self.config.seed, "sample", purpose), self.config.sampling.batch_size
        batches = generate_batches(self._sampler(), classes, seed=seed, batch_size=min(size, len(classes)))
        return torch.cat([batch.cpu() for batch in batches]), classes

    def statistics(self, batches: Iterable[Tensor]) -> FeatureStatistics:
        """Moments of the features of uint8 batches (b, 3, S, S), one batch in memory at a time."""
        statistics = None
        for images in batches:
            features = self.features(images).features
            statistics = statistics or FeatureStatistics(features.shape[1], features.device)
            statistics.update(features)
        return statistics

    def load(self, split: ImageSplit) -> Iterator[Tensor]:
        """The images of a split, uint8 batches, as evaluation sees them."""
        return prefetch(split.load, torch.arange(len(split)).split(BATCH))

    @torch.inference_mode()
    def decode(self, tokenizer: Tokenizer, tokens: Tensor) -> Iterator[Tensor]:
        """Tokens (n, L) -> uint8 batches of images."""
        for part in tokens.split(BATCH):
            yield to_uint8(tokenizer.detokenize(part.to(self.run.device)))

    @cached_property
    def _stopping(self) -> tuple[Tensor, FeatureStatistics]:
        """Tokens sampled once, and the moments of the validation images."""
        tokens, _ = self.sample(self.config.evaluation.samples_per_class, "stop")
        return tokens, self.statistics(self.load(self.images.val))

    def _stopping_distance(self, tokenizer: Tokenizer) -> float:
        tokens, reference = self._stopping
        return frechet_distance(self.statistics(self.decode(tokenizer, tokens)), reference)

    def _generator_shape(self, tokenizer: Tokenizer) -> RARConfig:
        """The generator's config with what the tokenizer and the data decide; a different given value is refused."""
        decided = {
            "codebook_size": len(tokenizer.codebook),
            "num_classes": self.images.num_classes,
            "num_tokens": tokenizer.num_tokens,
        }
        for name, value in decided.items():
            given = getattr(self.config.generator, name)
            if given not in (None, value):
                raise UserError(f"generator.{name}: found {given}, but tokenizer and data have {value}; leave it out")
        return replace(self.config.generator, **decided)

    def _sampler(self) -> Sampler:
        """The run's generator with its sampling settings."""
        generator, s = load_generator(self._result("generator")).to(self.run.device).eval(), self.config.sampling
        return generator.sampler(
            guidance_scale=s.guidance_scale,
            guidance_power=s.guidance_power,
            temperature=s.temperature,
            top_k=s.top_k,
            top_p=s.top_p,
        )

    def _write_tokens(self, tokenizer: Tokenizer) -> None:
        work = ImageTokens(
            tokenizer, self.images.train, self.run.folder / "tokens", augment=self.config.data.token_views
        )
        with Progress("tokens") as progress:
            work.run(rank=distributed.rank(), world=distributed.world(), progress=progress.show)
        distributed.barrier()
        if distributed.is_main():
            work.finish()
        distributed.barrier()

    def _result(self, stage: str) -> Path:
        """The checkpoint that a finished stage chose, else the model that the settings start from.

        Raises UserError where there is neither, and where the stage ended under other settings.
        """
        if self.run.is_finished("post" if stage.startswith("post") else stage, stage):
            return self.run.folder / stage / self.run.stage_state(stage)["best"]
        start = getattr(self.config.start, stage, None)
        if start:
            return locate(start)
        raise UserError(
            f"{self.run.folder / stage} is not finished; run `python -m robustok.train --name {self.config.name} "
            f"--stage {stage}` (or --stage all) first"
        )


def _shape(config: TokenizerConfig) -> dict:
    """The settings of a tokenizer that decide its tensors, defaults written out."""
    shape = asdict(config) | {"drop_path": None, "layer_scale": config.layer_scale is not None}
    for name in ("width", "depth", "heads"):
        shape[f"decoder_{name}"] = shape[f"decoder_{name}"] or shape[name]
    shape["num_latents"] = config.num_latents or (config.image_size // config.patch_size) ** 2
    return shape
