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
from .metrics.frechet import frechet_distance
from .noise import noise_fid
from .passes import moments_of
from .perturbing import how_perturbable
from .pfid import pfid
from .reconstruction import reconstructed


class Robustness(NamedTuple):
    """Fréchet distances of reconstructions from the images themselves."""

    clean: float  # nothing is wrong
    figure: str | None = None  # what the mean is called: "pfd" of replaced tokens, "nfd" of noise; None: not defined
    table: Sequence[list[float]] = ()  # a row a setting: alpha, delta, value; or strength, value
    strongest: Callable[[Tensor], Tensor] | None = None  # uint8 images -> under the strongest setting, on the CPU

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
        noisy = noise_fid(tokenizer, images(), features)
        table = [[strength, value] for strength, value in noisy.table.items()]
        return Robustness(noisy.rfid, "nfd", table, partial(_with_noise, tokenizer, noisy.std, max(noisy.table)))
    if how_perturbable(tokenizer) == "none":
        restored = (reconstructed(tokenizer, batch) for batch in images())
        return Robustness(frechet_distance(moments_of(features, restored), moments_of(features, images())))
    found = pfid(tokenizer, images(), features)
    alpha, delta = max(found.table)
    table = [[*setting, value] for setting, value in found.table.items()]
    return Robustness(found.rfid, "pfd", table, partial(reconstructed, tokenizer, alpha=alpha, delta=delta))


@torch.inference_mode()
def _with_noise(tokenizer: Tokenizer, std: Tensor, strength: float, images: Tensor) -> Tensor:
    z, scale = tokenizer.encode(from_uint8(images.to(tokenizer.device))), std.to(tokenizer.device, torch.float32)
    return to_uint8(tokenizer.decode(scale * perturb(z / scale, kind="gaussian", strength=strength, seed=0).z_q)).cpu()
