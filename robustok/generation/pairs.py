"""Pairs for post-training (METHOD.md section 6): generated tokens or latents beside the images they should decode to.

Sigma, the preservation ratio, is how much of the real image they keep: 1 gives its own tokens or latents, 0 what the
generator makes of its class alone. An autoregressive generator keeps each true token with probability sigma and goes
on from it; a flow starts from the real latents, noised to time 1 - sigma (1 is pure noise; SDEdit).
"direct" pairs are what was generated; "reencode" pairs what the encoder finds in the images decoded from it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..config import PairsConfig
from ..core import distributed
from ..core.device import on_the_host
from ..data.images import ImageSplit
from ..data.latents import open_rows
from ..data.loader import prefetch
from ..data.tokenization import encode_rows, row_writer
from ..data.transforms import from_uint8
from ..models.interfaces import LoadedTokenizer, Sampler
from .batches import decode_generated, generate_batches

PAIRS_PER_SHARD = 4096


class PairWriter:
    """Writes folder/direct, and folder/reencode if asked for, in shards that the processes share.

    Pair p belongs to image p mod N of the split, and is sample p of `sampler` under `seed`.
    """

    def __init__(
        self,
        config: PairsConfig,
        split: ImageSplit,
        tokenizer: LoadedTokenizer,
        sampler: Sampler,
        seed: int,
        batch_size: int,
    ):
        self.config, self.split, self.tokenizer = config, split, tokenizer
        self.sampler, self.seed, self.batch_size = sampler, seed, batch_size
        self.count = len(split) * config.per_image

    def write(self, folder: Path, about: dict) -> None:
        """Writes the pairs that are missing; every process calls it. `about`: what tells these pairs from others."""
        self._write(folder / "direct", about, self._generated)
        if "reencode" in self.config.modes:
            direct = open_rows(folder / "direct")
            self._write(folder / "reencode", about, lambda rows: self._reencoded(direct.read(rows)))

    @torch.inference_mode()
    def _generated(self, rows: Tensor) -> Tensor:
        """What is sampled under each image's class, with a share sigma of the image's own kept."""
        numbers = rows % len(self.split)
        images = prefetch(self.split.load, numbers.split(self.batch_size))
        batches = generate_batches(
            self.sampler,
            self.split.labels[numbers],
            sample_ids=rows,
            seed=self.seed,
            batch_size=self.batch_size,
            kept=(encode_rows(self.tokenizer, from_uint8(part.to(self.tokenizer.device))) for part in images),
            keep_ratio=self.config.sigma,
        )
        return torch.cat([*on_the_host(batches)])

    @torch.inference_mode()
    def _reencoded(self, generated: Tensor) -> Tensor:
        """What the encoder finds in the images which the decoder makes of generated tokens or latents."""
        images = (decode_generated(self.tokenizer, part) for part in generated.split(self.batch_size))
        return torch.cat([*on_the_host(encode_rows(self.tokenizer, from_uint8(part)) for part in images)])

    def _write(self, folder: Path, about: dict, rows_of: Callable[[Tensor], Tensor]) -> None:
        about = {"class_names": self.split.source.class_names, **about}
        writer = row_writer(self.tokenizer, folder, about, PAIRS_PER_SHARD)
        for number in writer.missing(self.count, rank=distributed.rank(), world=distributed.world()):
            rows = torch.tensor(writer.shard_range(number, self.count))
            image = rows % len(self.split)
            writer.write(number, rows_of(rows), self.split.labels[image], self.split.ids[image])
        distributed.barrier()
        if distributed.is_main():
            writer.finish(self.count)
        distributed.barrier()
