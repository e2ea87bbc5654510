"""A run on its way through the stages of the main job: its data, and the models that finished stages left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints import writing as checkpoints
from ..core.errors import UserError
from ..core.files import read_json
from ..core.random import derive_seed
from ..data.images import Images, ImageSplit, open_images
from ..data.latents import LatentSet, open_rows
from ..data.loader import prefetch
from ..data.tokens import TokenSet
from ..data.transforms import to_uint8
from ..evaluation import FeatureStatistics, frechet_distance
from ..evaluation.features.classifier import ClassifierFeatures
from ..generation.batches import generate_batches
from ..models.frozen.classifier import Classifier
from ..models.frozen.dino import load_backbone, load_teacher
from ..models.frozen.lpips import load_lpips
from ..models.frozen.networks import FrozenNetworks, from_classifier
from ..models.interfaces import Sampler
from ..models.load import load_generator, load_tokenizer, locate
from ..models.tokenizers.vit_tokenizer import ViTTokenizer
from ..training.run import Run

BATCH = 128  # images a forward pass where nothing is learned


@dataclass(frozen=True)
class JobStage:
    """A stage of the main job."""

    sections: tuple[str, ...]  # of the config: what its result depends on; it is reused only where they are the same
    run: Callable[[Pipeline], None]  # runs it to its end, or finds it finished


class Pipeline:
    """One run, and what its stages have made so far. `stages`: the stages that there are, by name."""

    def __init__(self, run: Run, stages: Mapping[str, JobStage]):
        self.run, self.config, self.stages = run, run.config, stages
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
        self.stages["classifier"].run(self)
        folder = self.result("classifier")
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

    def post_folder(self, mode: str) -> str:
        return "post" if mode == self.config.pairs.modes[0] else f"post-{mode}"

    def load_tokenizer(self, stage: str) -> ViTTokenizer:
        heads = self.config.start.num_heads
        return load_tokenizer(self.result(stage), num_heads=heads).to(self.run.device).eval()

    def training_tokens(self) -> TokenSet | LatentSet:
        """The tokens of the training images, or their latents of a continuous tokenizer; made on first use."""
        self.stages["tokens"].run(self)
        return open_rows(self.run.folder / "tokens")

    def sample(self, per_class: int, purpose: str) -> tuple[Tensor, Tensor]:
        """(tokens (n, L), classes (n,)) with the run's sampling settings; `purpose` names the seed."""
        classes = torch.arange(self.images.num_classes).repeat_interleave(per_class)
        seed, size = derive_seed(self.config.seed, "sample", purpose), self.config.sampling.batch_size
        batches = generate_batches(self.sampler(), classes, seed=seed, batch_size=min(size, len(classes)))
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
    def decode(self, tokenizer: ViTTokenizer, tokens: Tensor) -> Iterator[Tensor]:
        """Tokens (n, L) -> uint8 batches of images."""
        for part in tokens.split(BATCH):
            yield to_uint8(tokenizer.detokenize(part.to(self.run.device)))

    @cached_property
    def _stopping(self) -> tuple[Tensor, FeatureStatistics]:
        """Tokens sampled once, and the moments of the validation images."""
        tokens, _ = self.sample(self.config.evaluation.samples_per_class, "stop")
        return tokens, self.statistics(self.load(self.images.val))

    def stopping_distance(self, tokenizer: ViTTokenizer) -> float:
        """Fréchet distance of the run's samples, decoded by this tokenizer, from the validation images."""
        tokens, reference = self._stopping
        return frechet_distance(self.statistics(self.decode(tokenizer, tokens)), reference)

    def sampler(self) -> Sampler:
        """The run's generator with its sampling settings."""
        generator, s = load_generator(self.result("generator")).to(self.run.device).eval(), self.config.sampling
        return generator.sampler(
            guidance_scale=s.guidance_scale,
            guidance_power=s.guidance_power,
            temperature=s.temperature,
            top_k=s.top_k,
            top_p=s.top_p,
        )

    def is_finished(self, folder: str) -> bool:
        """True for a stage that ended under these settings; its folder is STAGE or STAGE-VARIANT.

        Raises UserError if it ended under others.
        """
        return self.run.is_finished(folder, self.stages[_stage_of(folder)].sections)

    def result(self, folder: str) -> Path:
        """The checkpoint that a finished stage chose, else the model that the settings start from.

        Raises UserError where there is neither, and where the stage ended under other settings.
        """
        if self.is_finished(folder):
            return self.run.folder / folder / self.run.stage_record(folder)["best"]
        start = getattr(self.config.start, folder, None)
        if start:
            return locate(start)
        raise UserError(
            f"{self.run.folder / folder} is not finished; run `python -m robustok.train --name {self.config.name} "
            f"--stage {_stage_of(folder)}` (or --stage all) first"
        )


def _stage_of(folder: str) -> str:
    return folder.partition("-")[0]
