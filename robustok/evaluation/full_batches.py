"""Images that come in batches of any size, brought to a network of features in batches as it computes them best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, cat

LEAST = 64  # images: adding a batch to moments takes the same time for one image as for some dozens


class FullBatches:
    """Joins batches of images, cuts them anew, and hands a network's output of each on.

    A network with a `batch_size` gets batches of the least multiple of it that has LEAST images, and what is left last.
    On a GPU it would fill up smaller ones and compute what was filled in; and what is summed batch by batch is the same
    to the bit, however the images came. A network without one gets the batches as they come.

    Args:
        network: uint8 (B, 3, H, W) -> what `take` gets.
        take: called with each output and the images that it is of, in order.
        part: no batch reaches beyond a multiple of so many images, so that moments of parts can be told apart.

    Up to a batch of images waits on its device: 50 MB of 256 images of 256 x 256 pixels.
    """

    def __init__(self, network: Callable, take: Callable[[Any, Tensor], Any], part: int | None = None):
        self.network, self.take, self.part = network, take, part
        size = getattr(network, "batch_size", None)
        self.size = None if size is None else size * -(-LEAST // size)
        self.waiting: list[Tensor] = []
        self.count = self.done = 0  # images that wait, and that went through the network

    def add(self, images: Tensor) -> None:
        """Takes in the next images, uint8 (b, 3, H, W) on any device."""
        while len(images):
            limit = self.size or len(images)
            if self.part is not None:
                limit = min(limit, self.part - self.done % self.part)
            taken, images = images[: limit - self.count], images[limit - self.count :]
            self.waiting.append(taken)
            self.count += len(taken)
            if self.count == limit:
                self.finish()

    def finish(self) -> None:
        """Lets the images that wait go through the network; more may follow."""
        if not self.waiting:
            return
        images = cat(self.waiting) if len(self.waiting) > 1 else self.waiting[0]
        self.done, self.count, self.waiting = self.done + self.count, 0, []
        self.take(self.network(images), images)
