"""What the published layouts of convolutional tokenizers call the parts of one network, and what their tensors tell.

A layout's keys differ from ours in the names of blocks and layers alone, never in a tensor.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..checkpoints.checkpoint import State
from ..core.errors import UserError
from ..core.sizes import sides
from ..model_configs import ConvTokenizerConfig
from .layout import Given
from .tensors import require

# Layers of a block that we name otherwise: theirs -> ours.
LAYERS = {".nin_shortcut.": ".shortcut.", ".proj_out.": ".out."}
CODEBOOK = "quantize.embedding.weight"


@dataclass(frozen=True)
class ConvNames:
    """Names of a layout; {i} stands for the number of a level, {j} for that of a block."""

    down: str  # a level of the encoder, numbered from the highest resolution
    up: str  # a level of the decoder
    block: str
    upsample: str
    middle: tuple[str, ...]  # possible parts of the middle, in the order of computation
    up_from_lowest: bool  # whether levels of the decoder are numbered from the lowest resolution

    def prefixes(self, config: ConvTokenizerConfig) -> Iterator[tuple[str, str]]:
        """(beginning of a key there, ours) for all parts whose names differ."""
        for i in range(len(config.widths)):
            yield from self._level(self.down.format(i=i), f"encoder.levels.{i}", config.blocks, "downsample.conv")
        for j, name in enumerate(self.middle):
            yield f"encoder.mid.{name}.", f"encoder.middle.{j}."
        yield from self.decoder_prefixes(len(config.widths), config.decoder_blocks)
        yield CODEBOOK, "quantizer.codebook"

    def decoder_prefixes(self, levels: int, blocks: int) -> Iterator[tuple[str, str]]:
        """Those of the decoder."""
        for i in range(levels):
            there = self.up.format(i=i if self.up_from_lowest else levels - 1 - i)
            yield from self._level(there, f"decoder.levels.{i}", blocks, self.upsample)
        for j, name in enumerate(self.middle):
            yield f"decoder.mid.{name}.", f"decoder.middle.{j}."

    def _level(self, there: str, here: str, blocks: int, resample: str) -> Iterator[tuple[str, str]]:
        for j in range(blocks):
            yield f"{there}.{self.block.format(j=j)}.", f"{here}.blocks.{j}."
            yield f"{there}.attn.{j}.", f"{here}.attention.{j}."
        yield f"{there}.{resample}.", f"{here}.resample.conv."

    def from_published(self, state: State, config: ConvTokenizerConfig) -> State:
        """Their keys -> ours. A key that no part has is kept, so that loading reports it."""
        return renamed(state, self.prefixes(config), LAYERS)

    def to_published(self, state: State, config: ConvTokenizerConfig) -> State:
        """Our keys -> theirs."""
        back = [(ours, theirs) for theirs, ours in self.prefixes(config)]
        return renamed(state, back, {ours: theirs for theirs, ours in LAYERS.items()})

    def config(self, state: State, given: Given, where: str, layout: str, **rest: Any) -> ConvTokenizerConfig:
        """The sizes that the tensors of a state dict (their keys) tell, what is given, and `rest` where it is not.

        Raises: UserError when a tensor that tells a size is missing, and for wrong values given.
        """
        said = {name: getattr(given, name) for name in ("image_size", "similarity")}
        rest |= {name: value for name, value in said.items() if value is not None}
        config = ConvTokenizerConfig(**self.sizes(state, where, layout), **rest)
        cell = 2 ** (len(config.widths) - 1)
        if any(side < cell or side % cell for side in sides(config.image_size)):
            raise UserError(f"{where}: image_size must be a multiple of {cell}, found {config.image_size}")
        if config.similarity not in ("l2", "cosine", "dot"):
            raise UserError(f'{where}: similarity must be "l2", "cosine" or "dot", found {config.similarity!r}')
        return config

    def sizes(self, state: State, where: str, layout: str) -> dict[str, Any]:
        """The fields of a ConvTokenizerConfig that tensors tell. Raises: UserError when one of those is missing."""
        levels = range(max(1, _count(state, self.down, i=r"(\d+)")))
        widths = [self._first_block(self.down, i) for i in levels]
        ends = ("encoder.conv_in.weight", "encoder.conv_out.weight", CODEBOOK)
        require(state, [*ends, *widths, *self._decoder_levels(state)], where, layout)
        encoder = tuple(len(state[key]) for key in widths)
        decoder = self.decoder_sizes(state, where, layout)
        codes, code_width = state[CODEBOOK].shape
        return dict(
            widths=encoder,
            decoder_widths=None if decoder["widths"] == encoder else decoder["widths"],
            stem_width=len(state["encoder.conv_in.weight"]),
            blocks=_count(state, f"{self.down}.{self.block}", i=0, j=r"(\d+)"),
            decoder_blocks=decoder["blocks"],
            attention=tuple(i for i in levels if f"{self.down.format(i=i)}.attn.0.q.weight" in state),
            middle_blocks=sum(f"encoder.mid.{name}.conv1.weight" in state for name in self.middle),
            middle_attention=any(f"encoder.mid.{name}.q.weight" in state for name in self.middle),
            feature_width=len(state["encoder.conv_out.weight"]),
            codebook_size=codes,
            code_width=code_width,
        )

    def decoder_sizes(self, state: State, where: str, layout: str, before: str = "") -> dict[str, Any]:
        """widths (of the levels, the highest resolution first), blocks (a level) and middle_blocks of a decoder.

        before: what its keys have before `decoder.`. Raises UserError when a tensor that tells a size is missing.
        """
        widths = self._decoder_levels(state, before)
        require(state, widths, where, layout)
        return dict(
            widths=tuple(len(state[key]) for key in widths),
            blocks=_count(state, f"{before}{self.up}.{self.block}", i=0, j=r"(\d+)"),
            middle_blocks=sum(f"{before}decoder.mid.{name}.conv1.weight" in state for name in self.middle),
        )

    def _decoder_levels(self, state: State, before: str = "") -> list[str]:
        """A tensor as wide as each level, the highest resolution first."""
        levels = range(max(1, _count(state, before + self.up, i=r"(\d+)")))
        ups = reversed(levels) if self.up_from_lowest else levels
        return [before + self._first_block(self.up, i) for i in ups]

    def _first_block(self, level: str, i: int) -> str:
        return f"{level.format(i=i)}.{self.block.format(j=0)}.norm2.weight"


def _count(state: Iterable[str], part: str, **numbers: Any) -> int:
    """One more than the largest number in the place of the pattern, among keys that begin with `part`."""
    pattern = re.compile(part.replace(".", r"\.").format(**numbers) + r"\.")
    return max((int(match[1]) for match in map(pattern.match, state) if match), default=-1) + 1


def renamed(state: State, prefixes: Iterable[tuple[str, str]], layers: dict[str, str]) -> State:
    """The state dict with the beginning of each key replaced by the first (old, new) that fits, then its layers."""
    prefixes, result = list(prefixes), {}
    for key, tensor in state.items():
        for old, new in prefixes:
            if key.startswith(old):
                key = new + key[len(old) :]
                break
        for old, new in layers.items():
            key = key.replace(old, new)
        result[key] = tensor
    return result
