"""All metrics of a set of images against a reference, and what a reader must know before comparing them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..core.errors import UserError
from ..report.results import Results
from .features.inception import distance_name
from .metrics.kernel import kernel_distance
from .metrics.moments import frechet_distance
from .metrics.scores import inception_score, precision_recall
from .statistics import KEPT_REFERENCE, ImageStatistics, evenly

KID_ROWS = 1000  # rows of a subset


def compare(samples: ImageStatistics, reference: ImageStatistics) -> dict[str, float]:
    """FID, sFID, Inception Score, KID, precision and recall: those that both sides have what it takes for.

    "fid" is Inception's; the distance of other features is called "fd".

    Raises UserError where the two sides come from other features.
    """
    if samples.pool.dim != reference.pool.dim or (reference.protocol not in (None, samples.protocol)):
        raise UserError(
            f"{reference.name}: reference of {reference.pool.dim} features ({reference.protocol}), but the samples have"
            f" {samples.pool.dim} ({samples.protocol}): make the reference again with `evaluate reference`"
        )
    metrics = {distance_name(samples.protocol).lower(): frechet_distance(samples.pool, reference.pool)}
    if samples.spatial is not None and reference.spatial is not None:
        metrics["sfid"] = frechet_distance(samples.spatial, reference.spatial)
    if samples.logits is not None:
        splits = min(10, len(samples.logits))
        metrics["inception_score"], metrics["inception_score_std"] = inception_score(samples.logits, splits)
    if samples.features is not None and reference.features is not None:
        real = reference.features[evenly(len(reference.features), KEPT_REFERENCE)].to(samples.features.device)
        size = min(KID_ROWS, len(real), len(samples.features))
        metrics["kid"], metrics["kid_std"] = kernel_distance(samples.features, real, subset_size=size)
        if min(len(real), len(samples.features)) > 3:
            metrics["precision"], metrics["recall"] = precision_recall(real, samples.features)
    return metrics


def notes(samples: ImageStatistics, reference: ImageStatistics) -> list[str]:
    """What makes these figures differ from others of the same name; empty where nothing does."""
    found = []
    for side in (samples, reference):
        if side.count is not None and side.count <= side.pool.dim:
            found.append(
                f"{side.name}: {side.count} images for {side.pool.dim} features: the covariance is singular and FID is"
                " biased upwards, by more the fewer the images; compare only with figures of as many"
            )
        if side.duplicates:
            found.append(f"{side.name}: {side.duplicates} images are exact copies of others")
    if samples.count != 50_000:
        found.append(f"{samples.count} samples; published FID uses 50,000, and FID falls with their number")
    if samples.class_counts and len(set(samples.class_counts)) > 1:
        low, high = min(samples.class_counts), max(samples.class_counts)
        found.append(f"{samples.name}: not class-balanced ({low} to {high} images a class); published figures are")
    if samples.features is not None and reference.features is not None:
        rows = min(len(samples.features), len(reference.features))
        if rows < KID_ROWS:
            found.append(f"KID is taken on subsets of {rows} images; published figures take {KID_ROWS}")
    if reference.protocol is None:
        found.append(f"{reference.name}: does not say how its features were computed; taken for those used here")
    if reference.features is None:
        found.append(f"{reference.name}: statistics only; precision, recall and KID need its images or features")
    if samples.weights is not None and not samples.weights.startswith("6726825d"):
        found.append("the network's weights are not the published ones: figures compare only among themselves")
    return found


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
