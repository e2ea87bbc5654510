"""Features of the small classifier that a run trains on its own classes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...checkpoints.reading import find_checkpoint
from ...core.errors import UserError
from ...core.files import sha256
from ...core.paths import readable_folder
from ...data.transforms import from_uint8
from ...models.frozen.classifier import Classifier, load_classifier
from .measuring import measuring, parts


class ClassifierOutput(NamedTuple):
    """What `ClassifierFeatures` gives, float32."""

    features: Tensor  # (B, F)
    logits: Tensor  # (B, classes) with bias


class ClassifierFeatures:
    """Callable: uint8 images (B, 3, S, S) -> features and logits of a run's own small classifier, float32.

    For data on which Inception's features mean nothing; the distance is named FD-classifier, it is no FID.
    """

    def __init__(self, classifier: Classifier, name: str, sha256: str | None = None, *, batch_size: int = 256):
        self.classifier = classifier.eval().requires_grad_(False)
        self.batch_size = batch_size
        self.device = next(classifier.parameters()).device
        self.protocol, self.sha256 = f"classifier/{name}/float32", sha256

    @measuring
    def __call__(self, images: Tensor) -> ClassifierOutput:
        batches = parts(images, self.batch_size, self.device)
        features = torch.cat([self.classifier.features(from_uint8(batch)) for batch in batches])
        return ClassifierOutput(features, self.classifier.head(features))


def open_classifier(weights: str | Path, device: torch.device) -> ClassifierFeatures:
    """The classifier of a run, from its stage's folder RUN/classifier; the run gives the features their name.

    Raises UserError for a folder without a valid checkpoint, and for a classifier of one class.
    """
    folder = find_checkpoint(readable_folder(weights, "the folder of a run's classifier").resolve())
    classifier = load_classifier(folder).to(device)
    if classifier.head.out_features == 1:
        raise UserError(
            f"{folder}: a classifier of one class, which had nothing to learn: distances of its features mean nothing; "
            f"use --network inception, or a run on images of several classes"
        )
    return ClassifierFeatures(classifier, folder.parent.parent.name, sha256(folder / "ema.safetensors"))
