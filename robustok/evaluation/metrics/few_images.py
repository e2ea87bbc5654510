"""The unbiased distances as metrics of `evaluate`, where fewer images are judged than published figures are of."""

from __future__ import annotations

from ..features.measuring import distance_name
from ..judging import FEWEST_IMAGES, MANY_IMAGES, named, unbiased_distances
from ..statistics import ImageStatistics


def unbiased_figures(samples: ImageStatistics, reference: ImageStatistics) -> dict[str, float] | None:
    """fid_inf (fd_inf of other features), kd and mind, of all samples and the reference's kept rows of features.

    Each is an Estimate, whose interval is known but for fid_inf of wide features. None from 50,000 samples on, below
    ten rows, and where a side kept no features.
    """
    made, real = samples.features, reference.features
    if made is None or real is None or min(len(made), len(real)) < FEWEST_IMAGES:
        return None
    if samples.count is None or samples.count >= MANY_IMAGES:
        return None
    found = unbiased_distances({"": made}, real.to(made.device), paired=False)[""]
    return dict(named("", found, distance_name(samples.protocol or "").lower()))
