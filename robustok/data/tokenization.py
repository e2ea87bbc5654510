"""Tokenises images into token shards, which generators are trained on. Resumable, on any number of processes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..models.interfaces import TrainableTokenizer
from .images import ImageSplit
from .loader import prefetch
from .tokens import TokenSet, TokenWriter, tokenizer_hash
from .transforms import VIEWS, from_uint8


class ImageTokens:
    """The work of tokenising `split` with `tokenizer` (on its device) into the folder `folder`.

    Row r of the tokens is view r mod V of image r // V of the split, V = VIEWS[augment] (see
    `transforms.fixed_views`). Raises UserError for a folder that was begun with another tokenizer, other images or
    other settings.
    """

    def __init__(
        self,
        tokenizer: TrainableTokenizer,
        split: ImageSplit,
        folder: str | Path,
        *,
        augment: str = "none",
        images_per_shard: int = 4096,
    ) -> None:
        self.tokenizer, self.split, self.augment = tokenizer, split, augment
        self.views = VIEWS[augment]
        self.count = len(split) * self.views
        about = {
            "tokenizer": tokenizer_hash(tokenizer),
            "codebook_size": tokenizer.codebook.shape[-2],  # (K, D), or (Q, K, D) of Q codebooks
            "class_names": split.source.class_names,
            "augment": augment,
            "images": split.fingerprint(),
        }
        self.writer = TokenWriter(folder, about, shard_rows=images_per_shard * self.views)

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
            for tokens in self._tokenize(images.split(batch_size)):
                parts.append(tokens)
                done += len(tokens) // self.views
                if progress is not None:
                    progress(done, total)
            rows = images.repeat_interleave(self.views)
            self.writer.write(number, torch.cat(parts), self.split.labels[rows], self.split.ids[rows])

    def finish(self) -> TokenSet:
        """Closes the folder after all processes have run, and opens it."""
        return self.writer.finish(self.count)

    def _image_rows(self, number: int) -> Tensor:
        rows = self.writer.shard_range(number, self.count)
        return torch.arange(rows.start // self.views, rows.stop // self.views)

    def _tokenize(self, batches: tuple[Tensor, ...]) -> Iterator[Tensor]:
        """The tokens (n * V, L) of each batch of rows, images loaded ahead by threads."""
        device = self.tokenizer.device
        for views in prefetch(lambda rows: self.split.load_views(rows, self.augment), batches):
            yield self.tokenizer.tokenize(from_uint8(views.flatten(0, 1).to(device))).cpu()
