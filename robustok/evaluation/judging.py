"""Distances that can tell few images apart: unbiased ones beside the Fréchet distance, each with its interval."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from .intervals import WIDEST, Estimate, FoldedStatistics, distances
from .metrics.extrapolated import ExtrapolatedDistance
from .metrics.kernel import check_pair
from .metrics.sliced import SlicedDistance
from .metrics.unbiased_kernel import UnbiasedKernelDistance
from .resampling import draw
from .statistics import evenly

MANY_IMAGES = 50_000  # from here on the Fréchet distance is what is published, and its bias small
FEWEST_IMAGES = 10  # with fewer, a replica may well be of one image alone
MOST_ROWS = 10_000  # of a side, evenly spaced, that the unbiased distances take: they need N² kernel values
DISTANCES = {"fd_inf": ExtrapolatedDistance, "kd": UnbiasedKernelDistance, "mind": SlicedDistance}
OF_RECONSTRUCTIONS = ("fd_inf", "kd")  # MIND is for generated images

Key = TypeVar("Key", bound=Hashable)


class FoldedRows(FoldedStatistics):
    """`FoldedStatistics` that keeps the rows, too, for the unbiased distances.

    4 N F bytes more; not of features wider than `widest`, nor of 50,000 images or more.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu", *, widest: int = WIDEST):
        super().__init__(dim, device, widest=widest)
        self._kept: list[Tensor] = []
        self._wide = dim > widest

    def update(self, features: Tensor) -> FoldedRows:
        """Adds rows: features (B, dim). Returns self."""
        super().update(features)
        if self._wide or self.count >= MANY_IMAGES:
            self._kept = []
        else:
            self._kept.append(features.detach().float())
        return self

    def rows(self) -> Tensor | None:
        """All rows (N, dim) float32, in order; None where they are not kept, or fewer than ten."""
        if not self._kept or self.count < FEWEST_IMAGES:
            return None
        self._kept = [torch.cat(self._kept)]
        return self._kept[0]


class Unbiased(NamedTuple):
    """Unbiased distances of reconstructions from their originals, by name; empty where the rows are not kept."""

    clean: Mapping[str, Estimate] = {}  # of plain reconstructions
    mean: Mapping[str, Estimate] = {}  # over those from wrong latents


def distances_of_rows(samples: Tensor, reference: Tensor, *, paired: bool) -> dict[str, Estimate]:
    """Distances of samples (N, F) from a reference (M, F), features of any floating dtype, by name.

    "fd": Fréchet distance, biased upwards by about 1 / N, with the jackknife's interval (evaluation/intervals.py).
    "fd_inf": the same extrapolated to infinitely many images; left out where a side has fewer than 4 F rows.
    "kd": the unbiased squared MMD with KID's kernel.
    "mind": sliced Wasserstein distance, biased upwards by about 1 / N, too.
    The last three have bootstrap intervals (fd_inf of up to 128 features), and take at most 10,000 rows, evenly spaced.
    They are left out where a side has fewer than ten rows.

    paired: row i of both sides is of the same image, as a reconstruction and its original are; images are drawn.
    Otherwise both sides are drawn independently for the last three; in the interval of "fd" the reference stays.
    What the same images or samples give through two decoders is compared by `Estimate.change_from`, name by name.

    Raises ValueError for other shapes, fewer than two rows, or paired sets of unequal size. No gradients.
    """
    check_pair(samples, reference)
    sides = [FoldedStatistics(rows.shape[1], widest=rows.shape[1]).update(rows) for rows in (samples, reference)]
    frechet = distances({"": sides[0]}, sides[1] if paired else sides[1].total())[""]
    if min(len(samples), len(reference)) < FEWEST_IMAGES:
        return {"fd": frechet}
    return {"fd": frechet} | unbiased_distances({"": samples}, reference, paired=paired)[""]


def unbiased_reconstructions(clean: FoldedRows, wrong: Iterable[FoldedRows], reference: FoldedRows) -> Unbiased:
    """fd_inf and kd of plain reconstructions of the reference's own images, and the mean kd over several from wrong
    latents: fd_inf of each of pFID's settings would cost more than all else of a run's evaluation.
    """
    rows = [side.rows() for side in (reference, clean, *wrong)]
    if any(side is None for side in rows):
        return Unbiased()
    real, plain, *others = rows
    first = unbiased_distances({"": plain}, real, paired=True, names=OF_RECONSTRUCTIONS)[""]
    if not others:
        return Unbiased(first)
    found = unbiased_distances(dict(enumerate(others)), real, paired=True, names=("kd",))
    return Unbiased(first, {"kd": Estimate.mean(figures["kd"] for figures in found.values())})


def unbiased_samples(samples: FoldedRows, reference: FoldedRows) -> dict[str, Estimate]:
    """All unbiased distances of generated images; empty where the rows of a side are not kept."""
    made, real = samples.rows(), reference.rows()
    return {} if made is None or real is None else unbiased_distances({"": made}, real, paired=False)[""]


def named(prefix: str, figures: Mapping[str, Estimate], distance: str = "fd") -> dict[str, Estimate]:
    """Figures as records name them: rfd_inf and rkd of reconstructions ("r"), gfid_inf where the distance is FID."""
    return {prefix + name.replace("fd", distance): value for name, value in figures.items()}


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
