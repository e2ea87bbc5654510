"""How a tokenizer's decoder stands wrong latents, measured as its kind allows.

Tokens are replaced by neighbouring codes (pFID's settings); latents without a codebook get noise (nFID's strengths).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.transforms import from_uint8, to_uint8
from ..models.interfaces import Tokenizer, is_discrete
from ..ops import perturb
from .explaining import perturbed_reconstructions
from .intervals import Estimate, FoldedStatistics, distances
from .judging import FoldedRows, Unbiased, named, unbiased_reconstructions
from .noise import CLEAN_STRENGTH, QUICK_STRENGTHS, STRENGTHS, noise_fid
from .passes import moments_of
from .perturbing import CLEAN, how_perturbable
from .pfid import pfid, quick_pfid
from .reconstruction import reconstructed

Wrong = tuple[float, ...]  # what is done to latents: (alpha, delta), or (strength,)


class Robustness(NamedTuple):
    """Fréchet distances of reconstructions from the images themselves."""

    clean: Estimate  # nothing is wrong
    figure: str | None = None  # what the mean is called: "pfd" of replaced tokens, "nfd" of noise; None: not defined
    mean: Estimate | None = None  # over the table
    table: Sequence[list[float]] = ()  # a row a setting: alpha, delta, value; or strength, value
    # uint8 images, the first of those that were measured -> their reconstructions, clean ones first, uint8 on the CPU
    pictured: Callable[[Tensor], dict[Wrong, Tensor]] | None = None
    unbiased: Unbiased = Unbiased()  # beside the first and the mean

    def estimates(self, distance: str = "fd") -> dict[str, Estimate]:
        """rfd, and the mean where there is one, by name, each followed by its unbiased distances: rfd_inf, rkd.

        distance: what a Fréchet distance of these features is called, "fd" or "fid".
        """
        found = {f"r{distance}": self.clean} | named("r", self.unbiased.clean, distance)
        if self.figure is None or self.mean is None:
            return found
        prefix = self.figure[0]
        return found | {f"{prefix}{distance}": self.mean} | named(prefix, self.unbiased.mean, distance)

    def tables(self) -> dict[str, Any]:
        """For metrics.json: the table, where there is one, as NAME_table."""
        return {} if self.figure is None else {f"{self.figure}_table": self.table}


def robustness(
    tokenizer, images: Callable[[], Iterable[Tensor]], features: Callable, *, quick: bool = False
) -> Robustness:
    """Of a tokenizer of any kind.

    images: gives uint8 batches (b, 3, H, W), anew each time it is called. features: as for `pfid`. quick: an estimate
    of three settings, of codes on at most 5,000 images (`quick_pfid`), and no unbiased distances.
    """
    if not is_discrete(tokenizer):
        strengths = QUICK_STRENGTHS if quick else STRENGTHS
        noisy = noise_fid(tokenizer, images(), features, strengths=strengths, unbiased=not quick)
        table = [[strength, value] for strength, value in noisy.table.items()]
        shown = partial(_with_noise, tokenizer, noisy.std, (CLEAN_STRENGTH, *noisy.table))
        return Robustness(noisy.rfid, "nfd", noisy.mean, table, shown, noisy.unbiased)
    if how_perturbable(tokenizer) == "none":
        restored = (reconstructed(tokenizer, batch) for batch in images())
        kind = FoldedStatistics if quick else FoldedRows
        clean, originals = (moments_of(features, batches, kind) for batches in (restored, images()))
        others = Unbiased() if quick else unbiased_reconstructions(clean, [], originals)
        return Robustness(distances({"": clean}, originals)[""], unbiased=others)
    found = quick_pfid(tokenizer, images(), features) if quick else pfid(tokenizer, images(), features, unbiased=True)
    table = [[*setting, value] for setting, value in found.table.items()]
    shown = partial(_perturbed, tokenizer, (CLEAN, *found.table))
    return Robustness(found.rfid, "pfd", found.mean, table, shown, found.unbiased)


def _perturbed(tokenizer, settings: Sequence[tuple[float, int]], images: Tensor) -> dict[Wrong, Tensor]:
    return {s: shown.cpu() for s, shown in perturbed_reconstructions(tokenizer, images, settings).items()}


@torch.inference_mode()
def _with_noise(tokenizer: Tokenizer, std: Tensor, strengths: Sequence[float], images: Tensor) -> dict[Wrong, Tensor]:
    z, scale = tokenizer.encode(from_uint8(images.to(tokenizer.device))), std.to(tokenizer.device, torch.float32)
    noisy = {(t,): scale * perturb(z / scale, kind="gaussian", strength=t, seed=0).z_q for t in strengths}
    return {wrong: to_uint8(tokenizer.decode(latents)).cpu() for wrong, latents in noisy.items()}
