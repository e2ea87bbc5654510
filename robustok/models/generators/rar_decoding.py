"""RAR token by token, with a static cache of keys and values.

The first two places of a sequence (class vector and condition) depend on its class alone, so they go through the
network once a class and not once an image.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ...ops.decoding import StepLinear, fastest_attention, fuses
from ...samplers.interfaces import take
from ...samplers.known_tokens import KnownRuns
from .decoding import Attend, Float32Head, KeyValueCache
from .rar_layers import NORM_EPS, RARBlock
from .rar_modulation import Modulation, ModulationTable
from .rar_network import PREFIX, RARNetwork


class RARDecoder:
    """S sequences in raster order: samplers/interfaces.py says what a TokenDecoder does.

    Logits are float32 (S, K) whatever the dtype of the weights. choices: file that keeps which attention was measured
    as fastest on this GPU; None: the machine's own file.
    """

    def __init__(self, network: RARNetwork, streams: int, choices: Path | None = None):
        self.network = network
        self.modulation = ModulationTable(network, PREFIX)
        self.moved = 0
        self.cache = self._new_cache(streams, PREFIX + network.num_tokens - 1)
        self.attention = fastest_attention(self.cache.keys[0], choices)
        self.head = Float32Head(network.lm_head)
        self.rows = torch.zeros(streams, dtype=torch.int64, device=network.cls_token.device)
        self.positions = torch.empty_like(network.pos_embed[0, : network.num_tokens + 1])

    def _new_cache(self, streams: int, places: int) -> KeyValueCache:
        attention = self.network.blocks[0].attn
        return KeyValueCache(
            self.network.cls_token,
            layers=len(self.network.blocks),
            streams=streams,
            heads=attention.heads,
            places=places,
            width=attention.q_norm.weight.shape[0],
            prefix=PREFIX,
        )

    def start(self, classes: Tensor) -> Tensor:
        """Begins new sequences of classes (S,); the one call that waits for the device."""
        found, rows = classes.unique(return_inverse=True)
        self.rows.copy_(rows)
        if len(found) > self.modulation.capacity:
            self.modulation = ModulationTable(self.network, 1 << (len(found) - 1).bit_length())
            self.moved += 1
        self.modulation.start(found)
        self._ready_layers()
        own, target = self.network.pos_embed[0], self.network.target_aware_pos_embed[0]
        self.positions.copy_(own[: len(self.positions)])
        self.positions[1:] += target[PREFIX : len(self.positions) + 1]
        return self._prefix(found)[self.rows]

    def _ready_layers(self) -> None:
        """Brings the linear layers, which many steps will call, into their fastest form."""
        rows = len(self.rows)
        self.layers = [step_linears(block, rows) for block in self.network.blocks]
        self.head.ready(rows)

    def _prefix(self, classes: Tensor) -> Tensor:
        """Sends class vector and condition of each class (U,) through the network: logits of token 0, (U, K).

        Their keys and values are copied to every sequence of the class.
        """
        rows = torch.arange(len(classes), device=classes.device)
        cache = self._new_cache(len(rows), PREFIX)
        for place, x in enumerate((self.network.cls_token[0].expand(len(rows), -1), self.network.condition(classes))):
            modulation = self.modulation.at(place, rows, fuses(x))
            last = self._blocks(x + self.positions[place], modulation, cache.one_place(place - PREFIX + 1))
        self.cache.begin(cache, self.rows)
        return self._head(last, modulation)

    def step(self, tokens: Tensor, step: int | Tensor) -> Tensor:
        """Appends tokens (S,) as token step - 1: the logits of token `step`. `prepare(step)` comes first."""
        place = step + 1
        x = self.network.embeddings(tokens) + take(self.positions, place)
        modulation = self.modulation.at(place, self.rows, fuses(x))
        attend = self.cache.one_place(step, self.attention)
        return self._head(self._blocks(x, modulation, attend), modulation)

    def prepare(self, step: int) -> None:
        """On the host: computes the modulation of `step` where it is not in the table."""
        self.modulation.prepare(step + 1)

    def extend(self, tokens: Tensor, runs: KnownRuns) -> Tensor:
        """Appends runs of tokens (R,) in one causal step: logits (k, K) of what follows the rows runs.last."""
        places = runs.steps + 1
        x = self.network.embeddings(tokens) + self.positions[places]
        modulation = self.modulation.of(places, self.rows[runs.sequences], fuses(x))
        x = self._blocks(x, modulation, self.cache.runs(runs))
        return self._head(x[runs.last], modulation.of(runs.last))

    def _blocks(self, x: Tensor, modulation: Modulation, attend: Attend) -> Tensor:
        """New places (R, width) through all blocks; `attend` stores their keys and values and gives (R, width)."""
        picked = modulation.picked
        for layer, block in enumerate(self.network.blocks):
            qkv, proj, fc1, fc2 = self.layers[layer]
            shift1, scale1, gate1, shift2, scale2, gate2 = modulation.parts[6 * layer : 6 * layer + 6]
            h = qkv(x, factor=scale1, shift=shift1, picked=picked)
            h = attend(layer, block.attn.new_places(h))
            x = proj(h, residual=x, gate=gate1, picked=picked)
            h = fc1(x, factor=scale2, shift=shift2, picked=picked)
            x = fc2(h, residual=x, gate=gate2, picked=picked)
        return x

    def _head(self, x: Tensor, modulation: Modulation) -> Tensor:
        x = F.layer_norm(x, x.shape[1:], eps=NORM_EPS)
        return self.head(torch.addcmul(modulation.part(-2), x, modulation.part(-1)))


def step_linears(block: RARBlock, rows: int) -> list[StepLinear]:
    """The linear layers of a block (qkv, proj, fc1, fc2) for about `rows` rows at a time."""
    qkv, proj, fc1, fc2 = block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2
    return [
        StepLinear(qkv.weight, qkv.bias, rows, norm="layer", epsilon=NORM_EPS),
        StepLinear(proj.weight, proj.bias, rows),
        StepLinear(fc1.weight, fc1.bias, rows, norm="layer", epsilon=NORM_EPS, gelu=True),
        StepLinear(fc2.weight, fc2.bias, rows),
    ]
