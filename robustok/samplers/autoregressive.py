"""Guided autoregressive sampling, for any generator whose decoder gives the logits of the next token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..ops import Indices
from ..ops.decoding import guide, guided_sample
from ..ops.indices import as_indices
from .interfaces import TokenNetwork, take
from .known_tokens import keep_mask, rounds
from .settings import SamplingSettings, check, check_seed, class_numbers, guidance_ramp, warn_of_null_class


class AutoregressiveSampler:
    """Samples batch after batch with the same settings; buffers and, on a GPU, the graph of a step are reused.

    Conditional and unconditional streams run as one batch, conditional first.

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
        self.scales = ramp.to(self.device)
        self.decoder = None
        warn_of_null_class(model, settings.guidance_scale)

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
        return self._draw_unknown(kept.cpu(), logits)

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
        self.tokens = torch.zeros(self.length, count, dtype=torch.int64, device=self.device)
        self.ids, self.seed = torch.zeros_like(self.tokens[0]), self.tokens.new_zeros(())
        self.step, self.graph = self.tokens.new_zeros(1), None

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
        """The same as one captured graph, replayed: neither the step number nor a token passes through the host."""
        if self.graph is None or self.decoder.moved != self.captured:
            self.graph, self.captured = self._capture(), self.decoder.moved
        self.step.zero_()
        for step in range(1, self.length):
            self.decoder.prepare(step)
            self.graph.replay()

    def _capture(self) -> torch.cuda.CUDAGraph:
        """The graph of one step.

        Three runs on a stream of their own come first, to build kernels and to find memory; the tokens that they write
        are written again later.
        """
        advance = self.compiled_step() if self.compile else self._advance
        aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.step.fill_(1)
                advance()
        torch.cuda.current_stream().wait_stream(aside)
        self.step.zero_()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread may be decoding
            self.step += 1  # not compiled: every kernel then reads the number from memory, and none has to make it
            advance()
        return graph

    def compiled_step(self) -> Callable[[], None]:
        """`_advance`, fused.

        For the sizes at hand alone: sizes left open would cost speed at the second batch size. Products are not padded,
        which each process would measure anew, and other sizes round differently.
        """
        return torch.compile(self._advance, fullgraph=True, dynamic=False, options={"shape_padding": False})

    def _advance(self) -> None:
        """Draws token `step` from the one before it."""
        tokens = take(self.tokens, self.step - 1).repeat(self.streams)
        drawn = self._draw(self.decoder.step(tokens, self.step), self.step, self.ids)
        self.tokens.index_copy_(0, self.step, drawn[None])

    def _draw_unknown(self, known: Tensor, logits: Tensor) -> Tensor:
        """Draws the tokens that are not `known` (B, L), on the host; the buffer of tokens holds those that are."""
        count, device = len(known), self.device
        for images, steps, runs in rounds(known):
            images, steps = images.to(device), steps.to(device)
            if runs is not None:
                runs = runs.to(device)
                tokens = self.tokens[runs.steps - 1, runs.sequences].repeat(self.streams)
                runs = runs if self.streams == 1 else runs.doubled(count)
                logits[runs.sequences[runs.last]] = self.decoder.extend(tokens, runs)
            rows = images if self.streams == 1 else torch.cat([images, images + count])
            self.tokens[steps, images] = self._draw(logits[rows], steps, self.ids[images])
        return self.tokens.T.clone()
