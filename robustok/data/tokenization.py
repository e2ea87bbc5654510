"""Writes what a tokenizer makes of images as shards, on which generators are trained: tokens of a discrete tokenizer,
latents of a continuous one. Resumable, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import distributed
from ..core.device import on_the_host
from ..core.progress import Progress
from ..core.shards import ALL, Shard
from ..models.interfaces import Tokenizer, TrainableTokenizer, is_discrete
from .images import ImageSplit
from .latents import LatentWriter
from .loader import prefetch
from .rows import RowWriter, tokenizer_hash
from .tokens import TokenWriter
from .transforms import VIEWS, from_uint8


@torch.no_grad()
def encode_rows(tokenizer: Tokenizer, images: Tensor) -> Tensor:
    """Images (n, 3, H, W) in [-1, 1] -> tokens (n, T) or (n, T, Q) of a discrete tokenizer, latents (n, L, D) of a
    continuous one.
    """
    return tokenizer.tokenize(images) if is_discrete(tokenizer) else tokenizer.encode(images)


def row_writer(tokenizer: TrainableTokenizer, folder: str | Path, about: dict[str, Any], shard_rows: int) -> RowWriter:
    """The writer of such rows; `about` has class_names, and what else tells them from others."""
    about = {"tokenizer": tokenizer_hash(tokenizer), **about}
    if is_discrete(tokenizer):
        about["codebook_size"] = tokenizer.codebook.shape[-2]  # (K, D), or (Q, K, D) of Q codebooks
        return TokenWriter(folder, about, shard_rows=shard_rows)
    return LatentWriter(folder, {**about, "latent_shape": tokenizer.latent_shape}, shard_rows=shard_rows)


class EncodedImages:
    """The work of encoding `split` with `tokenizer` (on its device) into the folder `folder`.

    Row r is view r mod V of image r // V of the split, V = VIEWS[augment] (see `transforms.fixed_views`). Raises
    UserError for a folder that was begun with another tokenizer, other images or other settings.
    """

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
        about = {"class_names": split.source.class_names, "augment": augment, "images": split.fingerprint()}
        images_per_shard = images_per_shard or (4096 if is_discrete(tokenizer) else 1024)
        self.writer = row_writer(tokenizer, folder, about, images_per_shard * self.views)

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
            for encoded in on_the_host(self._encoded(images.split(batch_size))):
                parts.append(encoded)
                done += len(encoded) // self.views
                if progress is not None:
                    progress(done, total)
            rows = images.repeat_interleave(self.views)
            self.writer.write(number, torch.cat(parts), self.split.labels[rows], self.split.ids[rows])

    def run_on_all_processes(self, batch_size: int = 64, shard: Shard = ALL) -> Any:
        """`run` by every process of this job, which each must call this, with progress shown; `finish` where all shards
        are there then. The main process gets the result, None while other jobs have shards to write.
        """
        world = distributed.world()
        with Progress("tokens") as progress:
            if shard.number:
                place = {"rank": (shard.number - 1) * world + distributed.rank(), "world": shard.count * world}
                self.run(batch_size=batch_size, progress=progress.show, **place)
        distributed.barrier()
        opened = self.finish() if distributed.is_main() and not self.missing() else None
        distributed.barrier()
        return opened

    def missing(self) -> list[str]:
        """The shards that are not there yet, for people."""
        return [f"shard {number}" for number in self.writer.missing(self.count)]

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
            yield encode_rows(self.tokenizer, from_uint8(views.flatten(0, 1).to(device)))
