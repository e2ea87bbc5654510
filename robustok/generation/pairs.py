"""Pairs for post-training (METHOD.md section 6): generated tokens beside the images that they should decode to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..config import PairsConfig
from ..core import distributed
from ..data.images import ImageSplit
from ..data.loader import prefetch
from ..data.rows import tokenizer_hash
from ..data.tokens import TokenWriter, open_tokens
from ..data.transforms import from_uint8, to_uint8
from ..models.interfaces import LoadedTokenizer, Sampler
from .batches import generate_batches

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
            direct = open_tokens(folder / "direct").tokens

            def reencoded(rows: Tensor) -> Tensor:
                return self._reencode(torch.from_numpy(direct[rows.numpy()].astype("int64")))

            self._write(folder / "reencode", about, reencoded)

    @torch.inference_mode()
    def _generated(self, rows: Tensor) -> Tensor:
        """Tokens sampled under each image's class, in which a share sigma of the image's own tokens is kept."""
        numbers = rows % len(self.split)
        images = prefetch(self.split.load, numbers.split(self.batch_size))
        batches = generate_batches(
            self.sampler,
            self.split.labels[numbers],
            sample_ids=rows,
            seed=self.seed,
            batch_size=self.batch_size,
            keep_tokens=(self.tokenizer.tokenize(from_uint8(part.to(self.tokenizer.device))) for part in images),
            keep_ratio=self.config.sigma,
        )
        return torch.cat([batch.cpu() for batch in batches])

    @torch.inference_mode()
    def _reencode(self, tokens: Tensor) -> Tensor:
        """The tokens that the encoder finds in the images which the decoder makes of generated tokens."""
        seen = []
        for part in tokens.split(self.batch_size):
            images = to_uint8(self.tokenizer.detokenize(part.to(self.tokenizer.device)))
            seen.append(self.tokenizer.tokenize(from_uint8(images)).cpu())
        return torch.cat(seen)

    def _write(self, folder: Path, about: dict, tokens_of: Callable[[Tensor], Tensor]) -> None:
        about = {
            "tokenizer": tokenizer_hash(self.tokenizer),
            "codebook_size": self.tokenizer.codebook.shape[-2],
            "class_names": self.split.source.class_names,
            **about,
        }
        writer = TokenWriter(folder, about, shard_rows=PAIRS_PER_SHARD)
        for number in writer.missing(self.count, rank=distributed.rank(), world=distributed.world()):
            rows = torch.tensor(writer.shard_range(number, self.count))
            image = rows % len(self.split)
            writer.write(number, tokens_of(rows), self.split.labels[image], self.split.ids[image])
        distributed.barrier()
        if distributed.is_main():
            writer.finish(self.count)
        distributed.barrier()
