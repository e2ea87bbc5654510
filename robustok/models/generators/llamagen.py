"""LlamaGen's GPT (METHOD section 5): its training loss, and its network place by place for sampling."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from .autoregressive import Autoregressive, token_loss
from .classes import drop_classes
from .decoding import cache_traffic
from .llamagen_decoding import LlamaGenDecoder
from .llamagen_network import LlamaGenNetwork


class LlamaGen(Autoregressive, LlamaGenNetwork):
    """A generator in raster order; `generate`, `sampler`, `logits`, `guided_logits`: see Autoregressive.

    config: LlamaGenConfig with codebook_size, num_classes and num_tokens given. Raises ValueError as LlamaGenNetwork.
    """

    kind = "llamagen"

    def loss(
        self, tokens: Tensor, classes: Tensor, *, seed: int, sample_ids: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of each token given those before it.

        Args:
            tokens: int64 (B, L), 0..K-1.
            classes: int64 (B,), 0..C-1; with probability config.class_dropout the null class takes their place.
            seed: of the step; which classes are dropped is a pure function of it and the sample id.
            sample_ids: int64 (B,), who each image is.

        Returns: (mean in nats, float32, to differentiate; terms to log: loss, accuracy as a share).
        """
        dropped = drop_classes(classes, self.num_classes, self.config.class_dropout, seed, sample_ids)
        return token_loss(self(tokens, dropped), tokens)

    def decoder(self, streams: int, choices: Path | None = None) -> LlamaGenDecoder:
        """The network place by place, for a number of sequences at once; arguments as LlamaGenDecoder's."""
        return LlamaGenDecoder(self, streams, choices)

    def cache_bytes(self, streams: int) -> int:
        """Bytes of keys and values that attention reads to sample one image with `streams` streams: 2 with guidance."""
        attention = self.layers[0].attention
        row = attention.kv_heads * attention.head_width * self.output.weight.element_size()
        return cache_traffic(self.num_tokens, streams * len(self.layers) * 2 * row)
