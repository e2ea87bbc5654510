"""Where published weights come from, and what their authors' own evaluation does with images."""

import functools
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.source import WeightsSource


@dataclass(frozen=True)
class Source(WeightsSource):
    """Published weights of a tokenizer."""

    similarity: str  # "l2", "cosine" or "dot"
    value_range: tuple[float, float]  # of its images
    resize: str  # of images in its own evaluation
    crop: str = "centre"


class UnlicensedWeights(UserWarning):
    """Weights whose source states no licence were opened."""


@functools.cache
def note_licence(path: Path, source: WeightsSource | None) -> None:
    """Warns, once for each file and run, of weights that were published without a licence."""
    if source is not None and source.licence is None and os.environ.get("RANK", "0") == "0":
        warnings.warn(
            f"{path} ({source.name}): published without a licence ({source.repository}): ask the authors before you "
            "pass on these weights or what is made with them",
            UnlicensedWeights,
            stacklevel=2,
        )
