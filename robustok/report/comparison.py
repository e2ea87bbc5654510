"""The report on a set of images that was compared with a reference."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..evaluation.compare import compare, notes
from ..evaluation.statistics import ImageStatistics
from .results import Results


def report_comparison(
    samples: ImageStatistics,
    reference: ImageStatistics,
    folder: str | Path,
    *,
    sampling: dict | None = None,
    pictures: Tensor | None = None,
) -> dict[str, float]:
    """Compares and reports: a table on the terminal, metrics.json and report.html in `folder`. Returns the metrics.

    `sampling`: the settings that the samples were made with. `pictures`: uint8 (N, 3, H, W), some of them.
    """
    metrics = compare(samples, reference)
    results = Results(folder, f"{samples.name} against {reference.name}")
    results.table(list(metrics.items()), ("metric", "value"), f"{samples.protocol}, {samples.count} images")
    results.notes(notes(samples, reference))
    if pictures is not None:
        results.images(pictures, f"Some of {samples.name}.")
    results.add("metrics", metrics)
    results.add("samples", samples.describe() | ({"sampling": sampling} if sampling else {}))
    results.add("reference", reference.describe())
    results.save()
    return metrics
