"""What every network of features shares: how it is called, and what a distance of its features may be called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def measuring(call: Callable) -> Callable:
    """For `__call__` of features: no gradients, and not in a caller's autocast, which is meant for its own models."""

    @functools.wraps(call)
    def wrapped(self, images: Tensor):
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            return call(self, images)

    return wrapped


def parts(images: Tensor, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Images on the device, a batch at a time.

    They may come from any device, not from page-locked memory that is about to change: nothing waits for the copy.
    """
    for part in images.split(batch_size):
        yield part.to(device, non_blocking=True)


def distance_name(protocol: str) -> str:
    """What a Fréchet distance of these features may be called: "FID" is Inception's alone, any other is "FD"."""
    return "FID" if protocol.startswith("inception-v3-tf2015") else "FD"
