"""Whether a tokenizer's images have the range of values that it declares: what it gives back under each likely one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..data.transforms import from_uint8, to_uint8
from ..models.interfaces import is_discrete
from .metrics.quality import psnr
from .perturbing import device_of

Range = tuple[float, float]  # of pixels, as a network sees them: (black, white)
LIKELY: tuple[Range, ...] = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0))
CLEARLY = 3.0  # dB by which one reconstruction is clearly better than another: half the squared error


class RangeCheck(NamedTuple):
    """Result of `check_range`; means over the images, in dB."""

    declared: Range
    psnr: dict[Range, float]  # of reconstructions under each range, the declared one first
    flat: float  # of pictures that have nothing but the mean colour of each image

    @property
    def best(self) -> Range:
        """The range with the largest PSNR."""
        return max(self.psnr, key=self.psnr.__getitem__)

    @property
    def poor(self) -> bool:
        """Whether no range gives back clearly more than mean colours."""
        return not self.psnr[self.best] > self.flat + CLEARLY

    @property
    def fits(self) -> bool:
        """Whether reconstructions are not poor, and no range is clearly better than the declared one."""
        return not self.poor and not self.psnr[self.best] > self.psnr[self.declared] + CLEARLY

    def verdict(self) -> str:
        """One sentence for people."""
        best, declared = f"{self.psnr[self.best]:.1f} dB", f"{self.psnr[self.declared]:.1f} dB"
        if self.poor:
            return (
                f"poor in every range: at best {best}, where mean colours alone have {self.flat:.1f} dB; untrained "
                "weights, a wrong layout or setting, or images of another kind than it was trained on"
            )
        if self.fits:
            return f"the declared range {described(self.declared)} fits ({declared})"
        return (
            f"images in {described(self.best)} are given back clearly better ({best}) than in the declared range "
            f"{described(self.declared)} ({declared}): the network seems to have been trained on those"
        )


@torch.inference_mode()
def check_range(tokenizer, images: Tensor, declared: Range = (-1.0, 1.0)) -> RangeCheck:
    """Reconstructs uint8 images (B, 3, H, W) as if the network's range of values were each of the likely ones.

    declared: the range that the tokenizer translates its [-1, 1] to inside.
    """
    original = images.to(device_of(tokenizer))
    found = {}
    for values in dict.fromkeys((declared, *LIKELY)):
        restored = _between(_restored(tokenizer, _between(from_uint8(original), values, declared)), declared, values)
        found[values] = float(psnr(to_uint8(restored), original).mean())
    flat = original.float().mean((2, 3), keepdim=True).round().to(torch.uint8).expand_as(original)
    return RangeCheck(declared, found, float(psnr(flat, original).mean()))


def described(values: Range) -> str:
    """[-1, 1] or [0, 255]."""
    return f"[{values[0]:g}, {values[1]:g}]"


def _restored(tokenizer, images: Tensor) -> Tensor:
    """Images -> images, not clamped: other ranges reach beyond [-1, 1]."""
    if is_discrete(tokenizer):
        return tokenizer.decode(tokenizer.lookup(tokenizer.tokenize(images)))
    return tokenizer.decode(tokenizer.encode(images))


def _between(images: Tensor, given: Range, taken: Range) -> Tensor:
    """Images of which [-1, 1] means `given` -> such that mean the same values where [-1, 1] means `taken`."""
    values = given[0] + (images + 1) * ((given[1] - given[0]) / 2)
    return (values - taken[0]) * (2 / (taken[1] - taken[0])) - 1
