"""A large sample in shards: one process claims a shard, samples and decodes it, takes its features and writes it.

Any number of processes may run the same command, at once or after each other, on machines that share the folder. Image
i has sample id i and all batches have one shape, so its tokens are the same however the work was shared and whatever
was killed meanwhile. A killed process loses the shards it had not finished.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from ..core.device import HostCopies, on_the_host
from ..core.errors import RunError
from ..core.files import remove_leftovers
from ..core.locks import claim
from ..core.shards import ALL, Shard
from ..data.latents import LatentSet, LatentWriter, open_rows
from ..data.rows import RowWriter
from ..data.tokens import TokenSet, TokenWriter
from ..evaluation.full_batches import FullBatches
from ..models.interfaces import Sampler, Tokenizer
from .batches import decode_batches, generate_batches
from .feature_writer import FeatureWriter
from .image_writer import ImageWriter

POLL_SECONDS = 0.5  # between looks at shards that others work on
DECODE_BATCH = 64  # images decoded at a time


class ShardedRun:
    """Samples images of `classes` (N,) into `folder`: tokens or latents, and on request images and features.

    Args:
        make_sampler: called once, and again where GPU memory is out and the batch size is halved.
        about: what tells this run from another, as TokenWriter or LatentWriter takes it.
        tokenizer: decodes tokens or latents; None: they alone are written.
        network: whose features of the images are written; None: no features.
        image_kinds: the forms in which images are kept, some of image_writer.KINDS.

    Raises UserError for a folder of another run.
    """

    def __init__(
        self,
        folder: Path,
        classes: Tensor,
        make_sampler: Callable[[], Sampler],
        *,
        about: dict,
        seed: int,
        batch_size: int,
        shard_rows: int,
        tokenizer: Tokenizer | None = None,
        network: Callable | None = None,
        image_kinds: tuple[str, ...] = (),
    ):
        self.folder, self.classes, self.seed = folder, classes, seed
        self.batch_size, self.halved = batch_size, False
        self.make_sampler, self.sampler = make_sampler, make_sampler()
        self.tokenizer, self.network = tokenizer, network
        writer = TokenWriter if "codebook_size" in about else LatentWriter
        self.writer: RowWriter = writer(folder / "tokens", about, shard_rows=shard_rows)
        self.images = ImageWriter(folder, image_kinds, len(classes)) if image_kinds else None
        self.features = FeatureWriter(folder) if network else None
        self.was_finished = self.is_finished()
        self.shards = -(-len(classes) // shard_rows)

    @torch.inference_mode()
    def work(self, show: Callable[[int], None], shard: Shard = ALL) -> int:
        """Samples until every shard that is this job's is there. Returns the number of images made by this process.

        `show` is told how many images there are in all. On a GPU a shard is decoded while the next one is sampled.
        """
        made, pending, mine = 0, None, set(shard.mine(range(self.shards)))
        with ThreadPoolExecutor(1) as beside:
            while missing := [number for number in self.writer.missing(len(self.classes)) if number in mine]:
                show(max(0, len(self.classes) - self.writer.shard_rows * len(missing)))
                number, held = self._claim_one(missing)
                tokens = None if held is None else self._sample(number)
                if pending is not None:
                    pending = pending.result()
                if held is None:
                    time.sleep(POLL_SECONDS)
                    continue
                made += len(tokens)
                if self.sampler.device.type == "cuda":
                    pending = beside.submit(self._complete_beside, number, tokens, held)
                else:
                    self._complete(number, tokens, held)
        show(len(self.classes))
        return made

    def finish(self) -> TokenSet | LatentSet | None:
        """Does what needs all shards. One process does it and gets the tokens or latents, the others get None."""
        held = claim(self.folder / "claims/finish")
        if held is None:
            return None
        with held:
            if self.was_finished:
                return open_rows(self.writer.folder)
            if self.is_finished():  # by another, a moment ago
                return None
            if self.images:
                self.images.finish(self.classes.numpy())
            return self.writer.finish(len(self.classes))

    def missing(self) -> list[str]:
        """The shards that are not there yet, for people."""
        return [f"shard {number}" for number in self.writer.missing(len(self.classes))]

    def is_finished(self) -> bool:
        return (self.writer.folder / "manifest.json").is_file()

    def _claim_one(self, missing: list[int]) -> tuple[int, TextIO | None]:
        """(number, claim) of the first missing shard that nobody works on; the claim is None where there is no such."""
        for number in missing:
            held = claim(self.folder / f"claims/{number:05d}")
            if held and number in self.writer.missing(len(self.classes)):
                self._remove_partial(number)  # of a process that was killed
                return number, held
            if held:  # finished by another since we looked
                held.close()
        return -1, None

    def _sample(self, number: int) -> Tensor:
        """Tokens or latents of a shard, on the CPU. Where GPU memory is out, the batch size is halved, once a run."""
        rows = self.writer.shard_range(number, len(self.classes))
        ids = torch.arange(rows.start, rows.stop)
        try:
            batches = generate_batches(
                self.sampler, self.classes[ids], sample_ids=ids, seed=self.seed, batch_size=self.batch_size
            )
            return torch.cat([*on_the_host(batches)])
        except torch.OutOfMemoryError:
            if self.halved or self.batch_size == 1:
                raise RunError(
                    f"out of GPU memory in batches of {self.batch_size}; use a smaller --batch_size"
                ) from None
        self.batch_size, self.halved = self.batch_size // 2, True
        print(f"out of GPU memory: going on in batches of {self.batch_size}", file=sys.stderr)
        self.sampler = self.make_sampler()
        return self._sample(number)

    @torch.inference_mode()
    def _complete_beside(self, number: int, tokens: Tensor, held: TextIO) -> None:
        """`_complete` on a stream of its own: decoding computes while sampling waits for memory."""
        with torch.cuda.stream(self._stream):
            self._complete(number, tokens, held)

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        """One for all shards: what was allocated on a stream is kept for that stream, and each would keep as much."""
        return torch.cuda.Stream(self.sampler.device)

    def _complete(self, number: int, tokens: Tensor, held: TextIO) -> None:
        """Decodes a shard, takes its features and writes it. Where that fails, what was written of it is removed."""
        rows = self.writer.shard_range(number, len(self.classes))
        ids, classes = torch.arange(rows.start, rows.stop), self.classes[rows.start : rows.stop]
        with held:
            try:
                if self.features or self.images:
                    self._write_images(number, tokens, ids, classes)
                self.writer.write(number, tokens, classes, ids)  # last: a shard with tokens is done
            except (OSError, RunError):  # a disk that fails, or is full
                self._remove_partial(number)
                raise

    def _remove_partial(self, number: int) -> None:
        for folder in self.folder.iterdir():
            remove_leftovers(folder, f"shard-{number:05d}")

    def _write_images(self, number: int, tokens: Tensor, ids: Tensor, classes: Tensor) -> None:
        images, copies, outputs = [], HostCopies(), []
        batches = FullBatches(self.network, lambda output, _: outputs.append(output)) if self.network else None
        for decoded in decode_batches(self.tokenizer, tokens, DECODE_BATCH):
            if batches:
                batches.add(decoded)
            if self.images:
                images += copies.add(decoded)
        if batches:
            batches.finish()
            self.features.write(number, outputs)
        if self.images:
            pictures = torch.cat(images + copies.rest()).permute(0, 2, 3, 1).numpy()
            self.images.write(number, ids.numpy(), pictures, classes.numpy())
