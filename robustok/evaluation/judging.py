"""Distances that can tell few images apart: unbiased ones beside the Fréchet distance, each with its interval."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

from torch import Tensor

from .intervals import Estimate, FoldedStatistics, distances
from .metrics.extrapolated import ExtrapolatedDistance
from .metrics.kernel import check_pair
from .metrics.sliced import SlicedDistance
from .metrics.unbiased_kernel import UnbiasedKernelDistance
from .resampling import draw
from .statistics import evenly

MANY_IMAGES = 50_000  # from here on the Fréchet distance is what is published, and its bias small
MOST_ROWS = 10_000  # of a side, evenly spaced, that the unbiased distances take: they need N² kernel values
DISTANCES = {"fd_inf": ExtrapolatedDistance, "kd": UnbiasedKernelDistance, "mind": SlicedDistance}

Key = TypeVar("Key", bound=Hashable)


def distances_of_rows(samples: Tensor, reference: Tensor, *, paired: bool) -> dict[str, Estimate]:
    """Distances of samples (N, F) from a reference (M, F), features of any floating dtype, by name.

    "fd": Fréchet distance, biased upwards by about 1 / N, with the jackknife's interval (evaluation/intervals.py).
    "fd_inf": the same extrapolated to infinitely many images; left out where a side has fewer than 4 F rows.
    "kd": the unbiased squared MMD with KID's kernel.
    "mind": sliced Wasserstein distance, biased upwards by about 1 / N, too.
    The last three have bootstrap intervals (fd_inf of up to 128 features), and take at most 10,000 rows, evenly spaced.

    paired: row i of both sides is of the same image, as a reconstruction and its original are; images are drawn.
    Otherwise both sides are drawn independently for the last three; in the interval of "fd" the reference stays.
    What the same images or samples give through two decoders is compared by `Estimate.change_from`, name by name.

    Raises ValueError for other shapes, fewer than two rows, or paired sets of unequal size. No gradients.
    """
    check_pair(samples, reference)
    sides = [FoldedStatistics(rows.shape[1], widest=rows.shape[1]).update(rows) for rows in (samples, reference)]
    frechet = distances({"": sides[0]}, sides[1] if paired else sides[1].total())[""]
    return {"fd": frechet} | unbiased_distances({"": samples}, reference, paired=paired)[""]


def unbiased_distances(
    sets: Mapping[Key, Tensor], reference: Tensor, *, paired: bool, names: tuple[str, ...] = tuple(DISTANCES)
) -> dict[Key, dict[str, Estimate]]:
    """All of the above but "fd", of several sets of as many rows: what concerns the reference is computed once.

    names: which of DISTANCES.
    """
    against = _thinned(reference)
    thinned = {key: _thinned(rows) for key, rows in sets.items()}
    (count,) = {len(rows) for rows in thinned.values()}
    draws = draw(count, len(against), paired=paired, device=against.device)
    found: dict[Key, dict[str, Estimate]] = {key: {} for key in sets}
    for name in names:
        distance = DISTANCES[name](against, draws)
        for key, rows in thinned.items():
            if (estimate := distance.of(rows.to(against.device))) is not None:
                found[key][name] = estimate
    return found


def _thinned(rows: Tensor) -> Tensor:
    return rows[evenly(len(rows), MOST_ROWS).to(rows.device)]
