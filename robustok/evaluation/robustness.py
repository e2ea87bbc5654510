"""How a tokenizer's decoder stands wrong latents, measured as its kind allows.

Tokens are replaced by neighbouring codes (pFID's settings); latents without a codebook get Gaussian noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.transforms import from_uint8
from ..models.interfaces import ContinuousTokenizer, is_discrete
from .metrics.frechet import frechet_distance
from .passes import moments_of
from .perturbing import how_perturbable
from .pfid import pfid
from .reconstruction import reconstructed

NOISES = (0.1, 0.2, 0.3, 0.4, 0.5)  # standard deviations of the noise, as shares of the latents' own


class Robustness(NamedTuple):
    """Fréchet distances of reconstructions from the images themselves."""

    clean: float  # nothing is wrong
    figure: str | None  # what the mean is called: "pfd" of replaced tokens, "nfd" of noise; None: nothing is defined
    table: list[list[float]]  # a row a setting: alpha, delta, value; or noise, value
    strongest: dict[str, Any]  # arguments of `tokenizer.reconstruct` for the strongest setting

    @property
    def mean(self) -> float:
        """Over the table."""
        return sum(row[-1] for row in self.table) / len(self.table)

    def figures(self) -> dict[str, Any]:
        """For metrics.json: rfd, and the mean and the table where there are any."""
        named = {} if self.figure is None else {self.figure: self.mean, f"{self.figure}_table": self.table}
        return {"rfd": self.clean, **named}


def robustness(tokenizer, images: Callable[[], Iterable[Tensor]], features: Callable) -> Robustness:
    """Of a tokenizer of any kind.

    images: gives uint8 batches (b, 3, H, W), anew each time it is called. features: as for `pfid`.
    """
    if not is_discrete(tokenizer):
        return _under_noise(tokenizer, images, features)
    if how_perturbable(tokenizer) == "none":
        restored = (reconstructed(tokenizer, batch) for batch in images())
        clean = frechet_distance(moments_of(features, restored), moments_of(features, images()))
        return Robustness(clean, None, [], {})
    found = pfid(tokenizer, images(), features)
    alpha, delta = max(found.table)
    table = [[*setting, value] for setting, value in found.table.items()]
    return Robustness(found.rfid, "pfd", table, {"alpha": alpha, "delta": delta})


def _under_noise(tokenizer: ContinuousTokenizer, images: Callable[[], Iterable[Tensor]], features: Callable):
    reference, spread = moments_of(features, images()), _spread(tokenizer, images())

    def distance(noise: float) -> float:
        return frechet_distance(moments_of(features, _restored(tokenizer, images(), noise * spread)), reference)

    table = [[noise, distance(noise)] for noise in NOISES]
    return Robustness(distance(0.0), "nfd", table, {"noise": NOISES[-1] * spread})


def _restored(tokenizer: ContinuousTokenizer, images: Iterable[Tensor], noise: float) -> Iterator[Tensor]:
    done = 0
    for batch in images:
        ids = torch.arange(done, done + len(batch))
        yield reconstructed(tokenizer, batch, noise=noise, sample_ids=ids)
        done += len(batch)


@torch.inference_mode()
def _spread(tokenizer: ContinuousTokenizer, images: Iterable[Tensor]) -> float:
    """Standard deviation of the images' latents, over images, places and channels about each channel's mean."""
    rows = torch.cat([tokenizer.encode(from_uint8(batch.to(tokenizer.device))).flatten(0, 1) for batch in images])
    return float(rows.double().var(0, correction=0).mean().sqrt())
