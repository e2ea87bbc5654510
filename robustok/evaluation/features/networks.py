"""Which network's features are compared, and where its weights are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from ...checkpoints.reading import find_checkpoint, verify
from ...core.files import read_json, sha256
from ...models.frozen.classifier import Classifier
from .dino import DinoFeatures
from .inception import ClassifierFeatures, InceptionFeatures

NETWORKS = ("inception", "dinov2", "classifier")
INCEPTION_WEIGHTS = "weights/pt_inception-2015-12-05-6726825d.pth"


def open_network(kind: str, weights: str | Path, mode: str, device: torch.device) -> Callable:
    """Callable: uint8 images -> features. kind "inception" (FID), "dinov2" or "classifier" (a run's own).

    `mode` is Inception's, "exact" or "fast". Raises UserError for missing or foreign weights.
    """
    if kind == "inception":
        return InceptionFeatures(weights, mode, device=device)
    if kind == "dinov2":
        return DinoFeatures(weights, device=device)
    folder = find_checkpoint(Path(weights).resolve())
    verify(folder)
    classifier = Classifier(**read_json(folder / "config.json")["config"])
    classifier.load_state_dict(load_file(folder / "ema.safetensors"))
    return ClassifierFeatures(classifier.to(device), folder.parent.parent.name, sha256(folder / "ema.safetensors"))
