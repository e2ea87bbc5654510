"""Which network's features are compared, and where its weights are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ...core.errors import UserError
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
    "inception": lambda weights, mode, device: InceptionFeatures(_inception(weights), mode, device=device),
    "dinov2": lambda weights, mode, device: DinoFeatures(_given(weights, "a file of DINOv2's weights"), device=device),
    "classifier": lambda weights, mode, device: open_classifier(_given(weights, "a run's RUN/classifier"), device),
    "random-filters": lambda weights, mode, device: RandomFilters(device=device),  # which have no weights to be read
}


def open_network(name: str, weights: str | Path | None, mode: str, device: torch.device) -> Callable:
    """The network `name` of NETWORKS with these weights, None where none are given; `mode` is Inception's, "exact" or
    "fast".

    Raises UserError for missing or foreign weights.
    """
    with parsing(weights or name, f"weights of the network {name}"):
        return NETWORKS[name](weights, mode, device)


def _given(weights: str | Path | None, expected: str) -> str | Path:
    if weights is None:
        raise UserError(f"--weights is missing: the network compared with needs {expected}")
    return weights


def _inception(weights: str | Path | None) -> str | Path:
    """Those given, else those at the usual place."""
    if weights is None and not Path(INCEPTION_WEIGHTS).is_file():
        raise UserError(
            f"--weights is missing, and there is no {INCEPTION_WEIGHTS}: FID needs the Inception network that "
            "pytorch-fid publishes (its SHA-256 begins 6726825d). Or compare other features: --network classifier "
            "--weights RUN/classifier, a run's own, or --network random-filters, which needs no weights"
        )
    return INCEPTION_WEIGHTS if weights is None else weights
