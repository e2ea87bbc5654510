"""Writes what a tokenizer makes of images as shards, on which generators are trained: tokens of a discrete tokenizer,
latents of a continuous one. Resumable, on any number of processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core import distributed
from ..core.progress import Progress
from ..models.interfaces import TrainableTokenizer, is_discrete
from .images import ImageSplit
from .latents import LatentWriter
from .loader import prefetch
from .rows import RowWriter, tokenizer_hash
from .tokens import TokenWriter
from .transforms import VIEWS, from_uint8


class EncodedImages(ABC):
    """The work of encoding `split` with `tokenizer` (on its device) into the folder `folder`.

    Row r is view r mod V of image r // V of the split, V = VIEWS[augment] (see `transforms.fixed_views`). Raises
    UserError for a folder that was begun with another tokenizer, other images or other settings.
    """

    writer_type: ClassVar[type[RowWriter]]
    images_per_shard: ClassVar[int]

    def __init__(
        self,
        tokenizer: TrainableTokenizer,
        split: ImageSplit,
        folder: str | Path,
        *,
        augment: str = "none",
        images_per_shard: int | None = None,
    ) -> None:
        self.tokenizer, self.split, self.augment = tokenizer, split, augment
        self.views = VIEWS[augment]
        self.count = len(split) * self.views
        about = {
            "tokenizer": tokenizer_hash(tokenizer),
            **self.about(),
            "class_names": split.source.class_names,
            "augment": augment,
            "images": split.fingerprint(),
        }
        images_per_shard = images_per_shard or self.images_per_shard
        self.writer = self.writer_type(folder, about, shard_rows=images_per_shard * self.views)

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What the writer asks to know of the tokenizer."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """One row an image (n, 3, S, S) in [-1, 1]."""

    def run(
        self, *, batch_size: int = 64, rank: int = 0, world: int = 1, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Writes the missing shards of process `rank`. `batch_size` counts images, not views.

        `progress(done, total)` is called after every batch with the images of this process.
        """
        numbers = self.writer.missing(self.count, rank=rank, world=world)
        total = sum(len(self._image_rows(number)) for number in numbers)
        done = 0
        for number in numbers:
            images = self._image_rows(number)
            parts = []
            for encoded in self._encoded(images.split(batch_size)):
                parts.append(encoded)
                done += len(encoded) // self.views
                if progress is not None:
                    progress(done, total)
            rows = images.repeat_interleave(self.views)
            self.writer.write(number, torch.cat(parts), self.split.labels[rows], self.split.ids[rows])

    def run_on_all_processes(self, batch_size: int = 64) -> Any:
        """`run` and `finish`, to be called by every process, with progress shown. The main process gets the result."""
        with Progress("tokens") as progress:
            self.run(batch_size=batch_size, rank=distributed.rank(), world=distributed.world(), progress=progress.show)
        distributed.barrier()
        opened = self.finish() if distributed.is_main() else None
        distributed.barrier()
        return opened

    def finish(self) -> Any:
        """Closes the folder after all processes have run, and opens it."""
        return self.writer.finish(self.count)

    def _image_rows(self, number: int) -> Tensor:
        rows = self.writer.shard_range(number, self.count)
        return torch.arange(rows.start // self.views, rows.stop // self.views)

    def _encoded(self, batches: tuple[Tensor, ...]) -> Iterator[Tensor]:
        """The rows (n * V, ...) of each batch of images, which are loaded ahead by threads."""
        device = self.tokenizer.device
        for views in prefetch(lambda rows: self.split.load_views(rows, self.augment), batches):
            yield self.encode(from_uint8(views.flatten(0, 1).to(device))).cpu()


class ImageTokens(EncodedImages):
    """Tokens, as a discrete tokenizer gives them."""

    writer_type, images_per_shard = TokenWriter, 4096

    def about(self) -> dict[str, Any]:
        return {"codebook_size": self.tokenizer.codebook.shape[-2]}  # (K, D), or (Q, K, D) of Q codebooks

    def encode(self, images: Tensor) -> Tensor:
        return self.tokenizer.tokenize(images)


class ImageLatents(EncodedImages):
    """Latents, as a continuous tokenizer gives them."""

    writer_type, images_per_shard = LatentWriter, 1024

    def about(self) -> dict[str, Any]:
        return {"latent_shape": self.tokenizer.latent_shape}

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return self.tokenizer.encode(images)


def encode_images(tokenizer: TrainableTokenizer, split: ImageSplit, folder: str | Path, **settings) -> EncodedImages:
    """The work of encoding a split with this tokenizer; settings as of `EncodedImages`."""
    work = ImageTokens if is_discrete(tokenizer) else ImageLatents
    return work(tokenizer, split, folder, **settings)
