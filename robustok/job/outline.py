"""What a run is checked and described by: its settings, images and stages, and its models without their values."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ..config import RunConfig
from ..data.images import Images
from ..evaluation.features.classifier import open_classifier
from ..models.frozen.classifier import Classifier
from ..models.registry import trained_config, trained_family
from ..models.starting import open_generator, tokenizer_shape, without_values


@dataclass(frozen=True)
class Outline:
    """A run before it begins, with nothing left open in its settings. Each model is built once, on the meta device."""

    config: RunConfig
    images: Images
    stages: Collection[str]

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier of the data that the run trains, or takes from another one."""
        if self.config.start.classifier is not None:
            return open_classifier(self.config.start.classifier, torch.device("cpu")).classifier.to("meta")
        with torch.device("meta"):
            return Classifier(self.images.num_classes, self.images.train.image_size)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that the later stages use, or that main training starts from."""
        return without_values(tokenizer_shape(self.config))

    @cached_property
    def trained_tokenizer(self) -> Any:
        """The tokenizer that the settings describe; None where no run can train its family."""
        if trained_family(self.config, "tokenizer").section is None:
            return None
        config = trained_config(self.config, "tokenizer")
        return self.tokenizer if config == self.tokenizer.config else without_values(config)

    @cached_property
    def generator(self) -> Any:
        """The generator that the run trains or starts from."""
        c = self.config
        if c.start.generator:
            return without_values(open_generator(c.start.generator, self.tokenizer).config)
        decided = trained_family(c, "generator").decided(self.tokenizer, self.images.num_classes)
        return without_values(replace(trained_config(c, "generator"), **decided))
