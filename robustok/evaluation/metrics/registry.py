"""Which metrics `evaluation.compare` computes, in the order in which they are reported."""

from __future__ import annotations

from collections.abc import Callable

from ..statistics import ImageStatistics
from .few_images import unbiased_figures
from .frechet import fid_figures, sfid_figures
from .kernel import kid_figures
from .precision_recall import precision_recall_figures
from .scores import inception_figures

# (samples, reference) -> figures by name, or None where one side lacks what the metric needs. The two sides come from
# the same features: `compare` has checked it.
Metric = Callable[[ImageStatistics, ImageStatistics], dict[str, float] | None]

METRICS: dict[str, Metric] = {
    "fid": fid_figures,
    "unbiased": unbiased_figures,
    "sfid": sfid_figures,
    "inception_score": inception_figures,
    "kid": kid_figures,
    "precision_recall": precision_recall_figures,
}
