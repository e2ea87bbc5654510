"""LlamaGen token by token, with a static cache of keys and values.

The first place of a sequence depends on its class alone, so it goes through the network once a class and not once an
image.
"""

from pathlib import Path

from torch import Tensor

from ...ops.decoding import StepLinear, fastest_attention
from ...samplers.interfaces import take
from ...samplers.known_tokens import KnownRuns
from .decoding import Attend, Float32Head, KeyValueCache
from .llamagen_layers import NORM_EPS, LlamaGenBlock
from .llamagen_network import PREFIX, LlamaGenNetwork


class LlamaGenDecoder:
    """S sequences: samplers/interfaces.py says what a TokenDecoder does. Token step - 1 is at place `step`.

    Logits are float32 (S, K) whatever the dtype of the weights. choices: file that keeps which attention was measured
    as fastest on this GPU; None: the machine's own file.
    """

    moved = 0

    def __init__(self, network: LlamaGenNetwork, streams: int, choices: Path | None = None):
        self.network, self.streams = network, streams
        self.cache = self._new_cache(streams, network.num_tokens)
        attention = network.layers[0].attention
        self.attention = fastest_attention(self.cache.keys[0], choices, attention.heads // attention.kv_heads)
        self.head = Float32Head(network.output)
        self.cos, self.sin = network.rotation()

    def _new_cache(self, streams: int, places: int) -> KeyValueCache:
        attention = self.network.layers[0].attention
        return KeyValueCache(
            self.network.output.weight,
            layers=len(self.network.layers),
            streams=streams,
            heads=attention.kv_heads,
            places=places,
            width=attention.head_width,
            prefix=PREFIX,
        )

    def start(self, classes: Tensor) -> Tensor:
        """Begins new sequences of classes (S,); the one call that waits for the device."""
        self._ready_layers()
        found, rows = classes.unique(return_inverse=True)
        cache = self._new_cache(len(found), PREFIX)
        x = self._layers(self.network.cls_embedding(found), self.cos[0], self.sin[0], cache.one_place(0))
        self.cache.begin(cache, rows)
        return self._logits(x)[rows]

    def _ready_layers(self) -> None:
        """Brings the linear layers, which many steps will call, into their fastest form."""
        self.linears = [_step_linears(layer, self.streams) for layer in self.network.layers]
        self.head.ready(self.streams)

    def prepare(self, step: int) -> None:
        """Nothing depends on the step but the rotary table, which is there."""

    def step(self, tokens: Tensor, step: int | Tensor) -> Tensor:
        """Appends tokens (S,) as token step - 1: the logits of token `step`."""
        x = self.network.tok_embeddings(tokens)
        attend = self.cache.one_place(step, self.attention)
        return self._logits(self._layers(x, take(self.cos, step), take(self.sin, step), attend))

    def extend(self, tokens: Tensor, runs: KnownRuns) -> Tensor:
        """Appends runs of tokens (R,) in one causal step: logits (k, K) of what follows the rows runs.last."""
        x = self.network.tok_embeddings(tokens)
        x = self._layers(x, self.cos[runs.steps], self.sin[runs.steps], self.cache.runs(runs))
        return self._logits(x[runs.last])

    def _layers(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """New places (R, width) through all layers; `attend` stores their keys and values and gives (R, width)."""
        for number, layer in enumerate(self.network.layers):
            wqkv, wo, w13, w2 = self.linears[number]
            h = wqkv(x, factor=layer.attention_norm.weight)
            h = attend(number, layer.attention.new_places(h, cos, sin))
            x = wo(h, residual=x)
            x = w2(w13(x, factor=layer.ffn_norm.weight), residual=x)
        return x

    def _logits(self, x: Tensor) -> Tensor:
        return self.head(self.network.norm(x))


def _step_linears(layer: LlamaGenBlock, rows: int) -> list[StepLinear]:
    attention, mlp = layer.attention, layer.feed_forward
    return [
        StepLinear(attention.wqkv.weight, None, rows, norm="rms", epsilon=NORM_EPS),
        StepLinear(attention.wo.weight, None, rows),
        StepLinear(mlp.w1.weight, None, rows, second=mlp.w3.weight, norm="rms", epsilon=NORM_EPS),
        StepLinear(mlp.w2.weight, None, rows),
    ]
