"""RAR, the generator of METHOD section 5: its training loss, and its network place by place for sampling."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...config import RunConfig
from ...core.annealing import anneal_ratio
from ...core.random import SHUFFLE, keyed_words, to_uniform
from .autoregressive import Autoregressive, token_loss
from .classes import drop_classes
from .decoding import cache_traffic
from .rar_decoding import RARDecoder
from .rar_network import PREFIX, RARNetwork


class RAR(Autoregressive, RARNetwork):
    """A randomised autoregressive generator; `generate`, `sampler`, `logits`, `guided_logits`: see Autoregressive.

    config: RARConfig with codebook_size, num_classes and num_tokens given. Raises ValueError where one is missing or
    heads do not divide width.
    """

    kind = "rar"

    def loss(
        self, tokens: Tensor, classes: Tensor, *, seed: int, sample_ids: Tensor, random_order_share: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of each token given those before it, in a random or the raster order.

        Args:
            tokens: int64 (B, L) in raster order, 0..K-1.
            classes: int64 (B,), 0..C-1; with probability config.class_dropout the null class takes their place.
            seed: of the step; orders and dropped classes are pure functions of it and the sample id.
            sample_ids: int64 (B,), who each image is.
            random_order_share: probability that a sequence is permuted, in [0, 1] (see `order_schedule`).

        Returns: (mean in nats, float32, to differentiate; terms to log: loss, accuracy as a share).
        """
        orders = random_orders(seed, sample_ids, self.num_tokens, random_order_share)
        dropped = drop_classes(classes, self.num_classes, self.config.class_dropout, seed, sample_ids)
        logits = self(tokens, dropped, orders)
        return token_loss(logits, tokens.gather(1, orders))

    def decoder(self, streams: int, choices: Path | None = None) -> RARDecoder:
        """The network place by place, for a number of sequences at once; arguments as RARDecoder's."""
        return RARDecoder(self, streams, choices)

    def cache_bytes(self, streams: int) -> int:
        """Bytes of keys and values that attention reads to sample one image with `streams` streams: 2 with guidance."""
        row = self.config.width * self.cls_token.element_size()
        return cache_traffic(PREFIX + self.num_tokens - 1, streams * self.config.depth * 2 * row)


def random_orders(seed: int, sample_ids: Tensor, length: int, share: float) -> Tensor:
    """(B, length) int64: each row is a random permutation with probability `share`, else the raster order.

    Rows are drawn by (seed, sample id) and so do not depend on the batch or the number of processes.
    """
    places = torch.arange(length + 1, device=sample_ids.device)
    keys, of_sequence = keyed_words(seed, SHUFFLE, sample_ids[:, None], places)[0].split(length, 1)
    permuted = to_uniform(of_sequence) < share
    return torch.where(permuted, keys.argsort(dim=1, stable=True), places[:-1])


def order_schedule(run: RunConfig, epoch: float) -> dict[str, float]:
    """What a run's `order` settings make of RAR's loss: sequences are permuted always, then less and less, then never.

    epoch: time in training, in passes over the training images.
    """
    order = run.order
    return {"random_order_share": anneal_ratio(epoch, start=order.anneal_start, end=order.anneal_end, end_ratio=0.0)}
