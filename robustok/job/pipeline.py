"""A run on its way through the stages of the main job: its data, and the models that finished stages left."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.reading import find_checkpoint
from ..config import FlowSamplingConfig, SamplingConfig
from ..core import distributed
from ..core.device import on_the_host
from ..core.errors import UserError
from ..core.random import derive_seed
from ..data.images import Images
from ..data.latents import LatentSet, open_rows
from ..data.loader import in_order
from ..data.tokens import TokenSet
from ..evaluation.features.classifier import ClassifierFeatures, open_classifier
from ..evaluation.features.random_filters import RandomFilters
from ..evaluation.passes import moments_and_agreement
from ..evaluation.skill import skill
from ..generation.batches import generate_batches
from ..generation.classes import classes_as_in
from ..model_configs import TokenizerConfig
from ..models.frozen.classifier import Classifier, load_classifier
from ..models.frozen.networks import FrozenNetworks, open_networks
from ..models.interfaces import LoadedTokenizer, Sampler
from ..models.load import build, check_fits, load_tokenizer, locate, open_checkpoint, take_statistics
from ..models.registry import sampler_settings, trained_family
from ..models.starting import given_of, open_generator, refuse_other_family
from ..training.run import Run


@dataclass(frozen=True)
class JobStage:
    """A stage of the main job."""

    sections: tuple[str, ...]  # of the config: what its result depends on; it is reused only where they are the same
    run: Callable[[Pipeline], None]  # runs it to its end, or finds it finished


class Pipeline:
    """One run on its images, and what its stages have made so far. `stages`: the stages that there are, by name."""

    def __init__(self, run: Run, images: Images, stages: Mapping[str, JobStage]):
        self.run, self.config, self.images, self.stages = run, run.config, images, stages
        run.images_fingerprint = self.images.all.fingerprint()

    def frozen(self, tokenizer: TokenizerConfig | None) -> FrozenNetworks:
        """The networks of the losses: those of the files named, else views of the run's classifier.

        tokenizer: whose grid the teacher of main training gets; None: no teacher.
        """
        return open_networks(
            self.config.frozen,
            tokenizer,
            lambda: self.classifier,
            self.run.device,
            compile=self.config.compile,
            bfloat16=self.run.bfloat16,
        )

    @cached_property
    def classifier(self) -> Classifier:
        """The small classifier of the run's own classes, trained on first use; or that of `start.classifier`."""
        if (given := self.config.start.classifier) is not None:
            classifier = open_classifier(given, self.run.device).classifier
        else:
            self.stages["classifier"].run(self)
            classifier = load_classifier(self.result("classifier")).to(self.run.device)
        if distributed.is_main():
            self._warn_of(ClassifierFeatures(classifier, self.distance_name))
        return classifier

    @torch.inference_mode()
    def _warn_of(self, features: ClassifierFeatures) -> None:
        """Says before anything is trained with it that the classifier does poorly on the validation images."""
        labels = self.images.val.labels
        _, accuracy = moments_and_agreement(features, in_order(self.images.val), labels)
        if said := skill(accuracy, labels).warning(self.distance_name):
            warnings.warn(said, stacklevel=4)

    @cached_property
    def features(self) -> ClassifierFeatures:
        """The network of Fréchet distances and class agreement."""
        return ClassifierFeatures(self.classifier, self.distance_name)

    @cached_property
    def second_features(self) -> RandomFilters:
        """Another network of Fréchet distances: an untrained one, that no loss can look through whatever it is given.

        The losses of a run without pretrained weights look through the classifier, so a decoder may learn what pleases
        it and nobody else. Stopping and judging look through both.
        """
        return RandomFilters(device=self.run.device)

    @property
    def distance_name(self) -> str:
        root = self.config.data.root
        return "FD-digits" if root is None else f"FD-{Path(root).resolve().name}"

    def post_folders(self) -> dict[str, str]:
        """Mode of the pairs -> folder of the decoder post-trained on them: `post`, and `post-MODE` after the first."""
        first, *others = self.config.pairs.modes
        return {first: "post"} | {mode: f"post-{mode}" for mode in others}

    def load_tokenizer(self, folder: str) -> LoadedTokenizer:
        """The tokenizer that a stage left in this folder of the run, on the run's device."""
        tokenizer = load_tokenizer(self.result(folder), **given_of(self.config))
        return tokenizer.to(self.run.device).eval()

    def tokenizer_checkpoint(self) -> Checkpoint:
        """All that the file of the run's tokenizer holds beside the model."""
        return open_checkpoint(self.result("tokenizer"), "tokenizer", **given_of(self.config))

    def training_tokens(self) -> TokenSet | LatentSet:
        """The tokens of the training images, or their latents of a continuous tokenizer; made on first use."""
        self.stages["tokens"].run(self)
        return open_rows(self.run.folder / "tokens")

    @property
    def sampling(self) -> SamplingConfig | FlowSamplingConfig:
        """How the generators of the run's family are sampled."""
        return getattr(self.config, trained_family(self.config, "generator").sampling)

    def sampler(self) -> Sampler:
        """A sampler of the run's generator with the run's settings."""
        path, tokenizer = self.result("generator"), self.load_tokenizer("tokenizer")
        generator = build(open_generator(path, tokenizer)).to(self.run.device)
        refuse_other_family(generator, trained_family(self.config, "generator"), str(path))
        check_fits(tokenizer, generator)
        take_statistics(generator, tokenizer)
        return generator.sampler(**sampler_settings(self.sampling))

    def sample(self, purpose: str) -> tuple[Tensor, Tensor]:
        """(tokens (N, L) or latents (N, L, D), classes (N,)) of `evaluation.samples_per_class` images a class.

        Each class has its share of the run's images. purpose: the name of the seed.
        """
        known = self.images.num_classes
        classes = classes_as_in(self.images.all.labels, self.config.evaluation.samples_per_class * known, known)
        seed, size = derive_seed(self.config.seed, "sample", purpose), self.sampling.batch_size
        batches = generate_batches(self.sampler(), classes, seed=seed, batch_size=min(size, len(classes)))
        return torch.cat([*on_the_host(batches)]), classes

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
            return find_checkpoint(self.run.folder / folder)
        start = getattr(self.config.start, folder, None)
        if start:
            return locate(start)
        raise UserError(
            f"{self.run.folder / folder} is not finished; run `python -m robustok.train --name {self.config.name} "
            f"--stage {_stage_of(folder)}` (or --stage all) first"
        )


def _stage_of(folder: str) -> str:
    return folder.partition("-")[0]
