"""What every network of features shares: how it is called, and what a distance of its features may be called."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def measuring(call: Callable) -> Callable:
    """For `__call__` of features: no gradients, and not in a caller's autocast, which is meant for its own models.

    Images may be on any device, not in page-locked memory that is about to change: nothing waits for the copy.
    """

    @functools.wraps(call)
    def wrapped(self, images: Tensor):
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            return call(self, images)

    return wrapped


def distance_name(protocol: str) -> str:
    """What a Fréchet distance of these features may be called: "FID" is Inception's alone, any other is "FD"."""
    return "FID" if protocol.startswith("inception-v3-tf2015") else "FD"
