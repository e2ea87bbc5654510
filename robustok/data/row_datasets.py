"""Token and latent shards as the training loop reads them: alone for a generator, beside real images for
post-training.
"""

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError
from .images import ImageSplit
from .readers import reading
from .rows import RowSet


class RowDataset:
    """Rows of shards; `load` gives tokens (n, L) int64 or latents (n, L, D) float32. Nothing is augmented."""

    def __init__(self, rows: RowSet):
        self.rows, self.labels, self.ids = rows, rows.labels, rows.ids

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, rows: Tensor, *, seed: int | None = None) -> Tensor:
        with reading(f"the shards of {self.rows.folder}"):
            return self.rows.read(rows)


class PairDataset:
    """Real images beside the generated tokens or latents that should decode to them: row p belongs to image p mod N.

    Raises UserError for pairs that were made of other images.
    """

    def __init__(self, images: ImageSplit, pairs: RowSet):
        repeat, rest = divmod(len(pairs), len(images))
        if rest or not torch.equal(pairs.ids, images.ids.repeat(repeat)):
            raise UserError(f"{pairs.folder}: its pairs belong to other images; remove the folder and make them again")
        self.images, self.pairs = images, pairs
        self.labels, self.ids = pairs.labels, pairs.ids
        self.blocks = None if images.blocks is None else images.blocks.of(np.arange(len(pairs)) % len(images))

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, rows: Tensor, *, seed: int | None = None) -> Tensor:
        """The images (n, 3, H, W) uint8 of the pairs `rows`, as evaluation sees them."""
        return self.images.load(rows % len(self.images))

    def generated(self, rows: Tensor, device: torch.device) -> Tensor:
        """What was generated for them: tokens (n, L) int64, or latents (n, L, D) float32. Nothing waits for a GPU."""
        generated = self.pairs.read(rows)
        if device.type == "cuda":  # which copies from page-locked memory while the host goes on
            generated = generated.pin_memory()
        return generated.to(device, non_blocking=True)
