"""Where published weights come from, and what their authors' own evaluation does with images."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WeightsSource:
    """Published weights of one layout, as facts to show beside a measurement."""

    name: str
    files: tuple[str, ...]  # names under which people download them
    repository: str  # owner/name of the repository or hub page that offers them
    licence: str | None  # that the repository states; None: none
    weights: str  # which of several sets its evaluation takes: "ema", "model", or "only" where there is one


@dataclass(frozen=True)
class Source(WeightsSource):
    """Published weights of a tokenizer."""

    similarity: str  # "l2", "cosine" or "dot"
    value_range: tuple[float, float]  # of its images
    resize: str  # of images in its own evaluation
    crop: str = "centre"
