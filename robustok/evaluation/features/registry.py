"""Which network's features are compared, and where its weights are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ...core.parsing import parsing
from .classifier import open_classifier
from .dino import DinoFeatures
from .inception import InceptionFeatures
from .random_filters import RandomFilters

INCEPTION_WEIGHTS = "weights/pt_inception-2015-12-05-6726825d.pth"

# Name on the command line -> opener of (weights, mode, device). What it opens takes uint8 images (B, 3, H, W) and gives
# an object with `.features` (B, F), where it has them also `.spatial` and `.logits`; `protocol` names what it computes,
# `sha256` its weights.
NETWORKS: dict[str, Callable] = {
    "inception": lambda weights, mode, device: InceptionFeatures(weights, mode, device=device),
    "dinov2": lambda weights, mode, device: DinoFeatures(weights, device=device),
    "classifier": lambda weights, mode, device: open_classifier(weights, device),
    "random-filters": lambda weights, mode, device: RandomFilters(device=device),  # which have no weights to be read
}


def open_network(name: str, weights: str | Path, mode: str, device: torch.device) -> Callable:
    """The network `name` of NETWORKS with these weights; `mode` is Inception's, "exact" or "fast".

    Raises UserError for missing or foreign weights.
    """
    with parsing(weights, f"weights of the network {name}"):
        return NETWORKS[name](weights, mode, device)
