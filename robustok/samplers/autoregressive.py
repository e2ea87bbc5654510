"""Guided autoregressive sampling, for any generator whose decoder gives the logits of the next token."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.graphs import capture, fused
from ..ops import Indices
from ..ops.decoding import guide, guided_sample
from ..ops.indices import as_indices
from .interfaces import TokenNetwork, take
from .known_tokens import LONGEST, Round, keep_mask, rounds, rows_a_round
from .settings import SamplingSettings, check, check_seed, class_numbers, guidance_ramp, warn_of_null_class

GRAPHS = 4  # that a sampler keeps: each has memory of its own for what its unit computes in between


class AutoregressiveSampler:
    """Samples batch after batch with the same settings; buffers and, on a GPU, captured graphs are reused.

    Conditional and unconditional streams run as one batch, conditional first. There is a graph of a step, and one of a
    round for every share of tokens that are kept; the GRAPHS that were used last are there, for one size of batch.

    Args:
        compile: fuse the step that a GPU replays with torch.compile, which takes a minute or two once.
        choices: as TokenNetwork.decoder's; processes that must draw the same tokens share it.
    """

    def __init__(
        self, model: TokenNetwork, settings: SamplingSettings, *, compile: bool = False, choices: Path | None = None
    ):
        self.model, self.settings, self.compile, self.choices = model, settings, compile, choices
        self.length, self.device, self.streams = model.num_tokens, model.device, settings.streams
        ramp = guidance_ramp(settings.guidance_scale, settings.guidance_power, self.length)
        self.scales = F.pad(ramp, (0, 1)).to(self.device)  # one for draws that only fill up
        self.decoder = None
        warn_of_null_class(model, settings.guidance_scale)

    @torch.inference_mode(False)  # where buffers are made that another call, outside that mode, could not write to
    @torch.no_grad()
    def generate(
        self,
        classes: Indices,
        *,
        seed: int,
        sample_ids: Indices | None = None,
        keep_tokens: Indices | None = None,
        keep_ratio: float = 0.0,
    ) -> Tensor:
        """int64 (B, L); arguments and errors as in Autoregressive.generate."""
        classes = class_numbers(classes, self.model.num_classes)
        check_seed(seed)
        ids = torch.arange(len(classes)) if sample_ids is None else as_indices("sample_ids", sample_ids)
        check(ids.shape == classes.shape, "sample_ids", tuple(ids.shape), f"one for each class, {tuple(classes.shape)}")
        logits = self._start(classes, seed, ids)
        if keep_tokens is None:
            return self._every_step(logits)
        keep_tokens = self._tokens("keep_tokens", keep_tokens, classes)
        check(0 <= keep_ratio <= 1, "keep_ratio", keep_ratio, "a share in [0, 1]")
        kept = keep_mask(keep_ratio, seed, ids, self.length)
        self.tokens.copy_(keep_tokens.T)
        return self._draw_unknown(kept.cpu(), keep_ratio, logits)

    @torch.inference_mode(False)
    @torch.no_grad()
    def logits(self, tokens: Indices, classes: Indices) -> Tensor:
        """Guided logits / temperature at every step if the tokens drawn were `tokens` (B, L): float32 (B, L, K).

        At temperature 0 they are not divided.
        """
        classes = class_numbers(classes, self.model.num_classes)
        tokens = self._tokens("tokens", tokens, classes)
        logits = self._start(classes, 0, torch.arange(len(classes)))
        self.tokens.copy_(tokens.T)
        rows = [self._guided(logits, 0)]
        for step in range(1, self.length):
            rows.append(self._guided(self._next_logits(step), step))
        return torch.stack(rows, 1)

    def _tokens(self, name: str, tokens: Indices, classes: Tensor) -> Tensor:
        tokens, expected = as_indices(name, tokens, self.model.codebook_size), (len(classes), self.length)
        check(tokens.shape == expected, name, tuple(tokens.shape), f"(B, L) = {expected}")
        return tokens

    def _start(self, classes: Tensor, seed: int, ids: Tensor) -> Tensor:
        """Logits of token 0; buffers keep their addresses as long as the batch keeps its size."""
        if self.decoder is None or self.tokens.shape[1] != len(classes):
            self.reserve(len(classes))
        self.ids.copy_(ids)
        self.seed.fill_(seed)
        streams = [classes, torch.full_like(classes, self.model.num_classes)][: self.streams]
        return self.decoder.start(torch.cat(streams).to(self.device))

    def reserve(self, count: int) -> None:
        """Buffers for `count` images."""
        self.decoder = self.model.decoder(self.streams * count, self.choices)
        self.board = torch.zeros(self.length + 1, count, dtype=torch.int64, device=self.device)
        self.tokens = self.board[: self.length]
        self.ids, self.seed = torch.zeros_like(self.tokens[0]), self.tokens.new_zeros(())
        self.step, self.captured = self.tokens.new_zeros(1), self.decoder.moved
        self.graphs: dict[str | int, torch.cuda.CUDAGraph] = {}  # of a step, and of rounds by their rows; latest last
        self.packed = self.tokens.new_zeros(3 * (LONGEST + 1) * count)  # of the round that a graph does: the largest

    def _next_logits(self, step: int) -> Tensor:
        self.decoder.prepare(step)
        return self.decoder.step(self.tokens[step - 1].repeat(self.streams), step)

    def _guided(self, logits: Tensor, step: int) -> Tensor:
        return guide(logits, self.tokens.shape[1], self.scales[step : step + 1], self.settings.divisor)

    def _draw(self, logits: Tensor, steps: Tensor, ids: Tensor) -> Tensor:
        s = self.settings
        return guided_sample(logits, self.scales[steps], s.divisor, s.kept, s.top_p, self.seed, ids, steps)

    def _every_step(self, logits: Tensor) -> Tensor:
        self.tokens[0] = self._draw(logits, self.step.zero_(), self.ids)
        if self.step.is_cuda and self.length > 1:
            self._replay_steps()
        else:
            for step in range(1, self.length):
                self.tokens[step] = self._draw(self._next_logits(step), self.step.fill_(step), self.ids)
        return self.tokens.T.clone()

    def _replay_steps(self) -> None:
        """The same as one captured graph, replayed: no token passes through the host."""
        self.step.fill_(1)
        graph = self._graph("step", self._advance)
        for step in range(1, self.length):
            self.decoder.prepare(step)
            self.step.fill_(step)
            graph.replay()

    def _graph(self, key: str | int, unit: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """The captured graph of `unit`, which runs a few times where it has to be captured: its tokens are final, or
        drawn again."""
        if self.decoder.moved != self.captured:
            self.graphs, self.captured = {}, self.decoder.moved
        graph = self.graphs.pop(key, None) or capture(fused(unit) if self.compile else unit, self.device)
        self.graphs = dict([*self.graphs.items(), (key, graph)][-GRAPHS:])
        return graph

    def _advance(self) -> None:
        """Draws token `step` from the one before it."""
        tokens = take(self.tokens, self.step - 1).repeat(self.streams)
        drawn = self._draw(self.decoder.step(tokens, self.step), self.step, self.ids)
        self.tokens.index_copy_(0, self.step, drawn[None])

    def _draw_unknown(self, known: Tensor, ratio: float, logits: Tensor) -> Tensor:
        """Draws the tokens that are not `known` (B, L), on the host; the buffer of tokens holds those that are.

        On a GPU every round is a replay of the same graph, and the host waits for none.
        """
        first = self._draw(logits, self.step.zero_(), self.ids)
        self.tokens[0] = torch.where(known[:, 0].to(self.device), self.tokens[0], first)
        if not self.step.is_cuda:
            for turn in rounds(known, self.device):
                self._round(turn)
        elif self.length > 1:
            self._replay_rounds(known, rows_a_round(ratio, len(known)))
        return self.tokens.T.clone()

    def _replay_rounds(self, known: Tensor, rows: int) -> None:
        count = len(known)
        packed = self.packed[: 3 * (rows + count)]
        unit = partial(self._round, Round(packed, rows, count, LONGEST, self.length - 1))
        for turn in rounds(known, self.device, rows):
            packed.copy_(turn.packed)
            self._graph(rows, unit).replay()

    def _round(self, turn: Round) -> None:
        """Lets known tokens through and draws those that follow them; the row behind the last takes what fills up."""
        count = self.tokens.shape[1]
        runs, images, drawn = turn.runs(self.streams, count), turn.images, turn.drawn
        tokens = self.tokens[runs.steps - 1, runs.sequences % count]
        logits = self.decoder.extend(tokens, runs)
        self.board[drawn, images] = self._draw(logits, drawn, self.ids[images])
