"""All metrics of a set of images against a reference, and what a reader must know before comparing them."""

from __future__ import annotations

from ..core.errors import UserError
from .features.inception import PUBLISHED_HASH
from .metrics.kernel import KID_ROWS
from .metrics.registry import METRICS
from .statistics import GENERATED, NOT_RECORDED, ImageStatistics


def compare(samples: ImageStatistics, reference: ImageStatistics) -> dict[str, float]:
    """The figures of all METRICS that apply, by name: FID (of Inception's features, "fd" of others), its unbiased
    companions where few images are judged, sFID, Inception Score, KID, precision and recall.

    Raises UserError where the two sides come from other features.
    """
    if samples.pool.dim != reference.pool.dim or (reference.protocol not in (None, samples.protocol)):
        raise UserError(
            f"{reference.name}: reference of {reference.pool.dim} features ({reference.protocol}), but the samples have"
            f" {samples.pool.dim} ({samples.protocol}): make the reference again with `evaluate reference`"
        )
    figures: dict[str, float] = {}
    for metric in METRICS.values():
        figures |= metric(samples, reference) or {}
    return figures


def notes(samples: ImageStatistics, reference: ImageStatistics) -> list[str]:
    """What makes these figures differ from others of the same name; empty where nothing does."""
    found = _differences(samples, reference)
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
        fast = " (fast ones, while published statistics are exact)" if "/fast-" in (samples.protocol or "") else ""
        found.append(f"{reference.name}: does not say how its features were computed; taken for those used here{fast}")
    if reference.features is None:
        found.append(f"{reference.name}: statistics only; precision, recall and KID need its images or features")
    if samples.weights is not None and not samples.weights.startswith(PUBLISHED_HASH):
        found.append("the network's weights are not the published ones: figures compare only among themselves")
    return found


def _differences(samples: ImageStatistics, reference: ImageStatistics) -> list[str]:
    """What was done to the two sides' pixels, where it is not the same."""
    found = []
    if samples.size and reference.size and samples.size != reference.size:
        of = [f"{side.name} is of {side.size[0]} x {side.size[1]} pixels" for side in (samples, reference)]
        found.append(
            f"{' and '.join(of)}: these distances measure the resolution before anything else; bring both to one size"
            " (--size)"
        )
    recorded = {side.transform for side in (samples, reference)} - {GENERATED, NOT_RECORDED}
    if len(recorded) > 1:
        found.append(
            f"the pixels of the two sides were prepared differently ({samples.name}: {samples.transform};"
            f" {reference.name}: {reference.transform}): resizing alone moves such distances"
        )
    return found
