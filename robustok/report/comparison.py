"""The report on a set of images that was compared with a reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.shards import Shard
from ..core.sizes import Size
from ..evaluation.compare import compare, notes
from ..evaluation.intervals import Estimate, recorded
from ..evaluation.parts import collected
from ..evaluation.reference import open_reference
from ..evaluation.statistics import ImageStatistics
from ..evaluation.streams import ImageStream
from .conditions import Fields, of_comparison, together
from .results import Results
from .wording import estimated

BESIDE = (
    "± is half of the 95 % interval. Of few images kd and fid_inf (fd_inf of features that are not Inception's) say "
    "more than FID: their number does not raise them."
)


def report_stream(
    stream: ImageStream,
    network: Callable,
    reference: str | Path,
    folder: str | Path,
    *,
    size: Size | None,
    shard: Shard,
    **made: Any,
) -> None:
    """Measures a stream, or this job's share of it, and reports once all of it is there.

    reference, size: as `load_reference` takes them. made: how the images were made, as `report_comparison` takes it.
    """
    load_reference = open_reference(reference, network, size)
    against = f"against {reference} of size {size}"
    with collected(stream, network, shard, Path(folder) / "parts", purpose=against) as found:
        if found is not None:
            pictures = next(iter(stream))[:32]
            report_comparison(found, load_reference(), folder, pictures=pictures, **made)


def report_comparison(
    samples: ImageStatistics,
    reference: ImageStatistics,
    folder: str | Path,
    *,
    sampling: dict | None = None,
    made: Fields | None = None,
    pictures: Tensor | None = None,
) -> dict[str, float]:
    """Compares and reports: a table on the terminal, metrics.json and report.html in `folder`. Returns the metrics.

    `sampling`: the settings that the samples were made with; `made`: what else they depend on. `pictures`: uint8
    (N, 3, H, W), some of them.
    """
    metrics = compare(samples, reference)
    results = Results(folder, f"{samples.name} against {reference.name}")
    rows = [(name, estimated(value) if isinstance(value, Estimate) else value) for name, value in metrics.items()]
    results.table(rows, ("metric", "value"), f"{samples.protocol}, {samples.count} images. {BESIDE}")
    results.notes(notes(samples, reference))
    if pictures is not None:
        results.images(pictures, f"Some of {samples.name}.")
    results.add("metrics", recorded(metrics))
    results.add("samples", samples.describe() | ({"sampling": sampling} if sampling else {}))
    results.add("reference", reference.describe())
    results.add("conditions", together(of_comparison(samples, reference), made or {}))
    results.save()
    return metrics
