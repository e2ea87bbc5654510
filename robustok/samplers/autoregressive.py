"""Guided autoregressive sampling, for any generator whose decoder gives the logits of the next token."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.random import KEEP, keyed_words
from ..ops.decoding.guided_sample import guide, guided_sample
from .known_tokens import rounds

if TYPE_CHECKING:
    from ..models.generators.autoregressive import Autoregressive


class Sampler:
    """Samples batch after batch with the same settings; buffers and, on a GPU, the graph of a step are reused.

    Conditional and unconditional streams run as one batch, conditional first. Settings as in Autoregressive.generate;
    compile: fuse the step that a GPU replays with torch.compile, which takes a minute or two once. choices: as
    RARDecoder's; processes that must draw the same tokens share it.
    """

    def __init__(self, model: Autoregressive, *, guidance_scale: float, guidance_power: float | None = None,
                 temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, compile: bool = False,
                 choices: Path | None = None):  # fmt: skip
        _expect(guidance_scale >= 0, "guidance_scale", guidance_scale, "a number from 0 (1 is no guidance)")
        _expect(
            guidance_power is None or guidance_power > 0, "guidance_power", guidance_power, "a positive number or None"
        )
        _expect(temperature > 0, "temperature", temperature, "a positive number")
        _expect(top_k >= 0, "top_k", top_k, "a number from 0 (all codes)")
        _expect(0 < top_p <= 1, "top_p", top_p, "a share in (0, 1]")
        self.model, self.length, self.compile, self.choices = model, model.num_tokens, compile, choices
        self.filters = (temperature, top_k, top_p)
        self.streams = 1 if guidance_scale == 1 else 2
        self.device = next(model.parameters()).device
        self.scales = guidance_ramp(guidance_scale, guidance_power, self.length).to(self.device)
        self.decoder = None

    @torch.no_grad()
    def generate(self, classes: Tensor, *, seed: int, sample_ids: Tensor | None = None,
                 keep_tokens: Tensor | None = None, keep_ratio: float = 0.0) -> Tensor:  # fmt: skip
        """int64 (B, L); arguments as in Autoregressive.generate."""
        check_classes(classes, self.model.num_classes)
        ids = torch.arange(len(classes)) if sample_ids is None else sample_ids
        _expect(
            ids.shape == classes.shape, "sample_ids", tuple(ids.shape), f"one for each class, {tuple(classes.shape)}"
        )
        logits = self._start(classes, seed, ids)
        if keep_tokens is None:
            return self._every_step(logits)
        expected = (len(classes), self.length)
        _expect(keep_tokens.shape == expected, "keep_tokens", tuple(keep_tokens.shape), f"(B, L) = {expected}")
        _expect(0 <= keep_ratio <= 1, "keep_ratio", keep_ratio, "a share in [0, 1]")
        inside = (keep_tokens >= 0) & (keep_tokens < self.model.codebook_size)
        _expect(
            inside.all(), "keep_tokens", keep_tokens[~inside][:5].tolist(), f"codes 0..{self.model.codebook_size - 1}"
        )
        kept = keep_mask(keep_ratio, seed, ids, self.length)
        self.tokens.copy_(keep_tokens.T)
        return self._around(kept.cpu(), logits)

    @torch.no_grad()
    def logits(self, tokens: Tensor, classes: Tensor) -> Tensor:
        """Guided logits / temperature at every step if the tokens drawn were `tokens` (B, L): float32 (B, L, K)."""
        check_classes(classes, self.model.num_classes)
        expected = (len(classes), self.length)
        _expect(tokens.shape == expected, "tokens", tuple(tokens.shape), f"(B, L) = {expected}")
        logits = self._start(classes, 0, torch.arange(len(classes)))
        self.tokens.copy_(tokens.T)
        rows = [guide(logits, len(classes), self.scales[:1], self.filters[0])]
        for step in range(1, self.length):
            rows.append(guide(self._next_logits(step), len(classes), self.scales[step : step + 1], self.filters[0]))
        return torch.stack(rows, 1)

    def _start(self, classes: Tensor, seed: int, ids: Tensor) -> Tensor:
        """Logits of token 0; buffers keep their addresses as long as the batch keeps its size."""
        if self.decoder is None or self.tokens.shape[1] != len(classes):
            self.decoder = self.model.decoder(self.streams * len(classes), self.choices)
            self.tokens = torch.zeros(self.length, len(classes), dtype=torch.int64, device=self.device)
            self.ids, self.seed = torch.zeros_like(self.tokens[0]), self.tokens.new_zeros(())
            self.step, self.graph = self.tokens.new_zeros(1), None
        self.ids.copy_(ids)
        self.seed.fill_(seed)
        streams = [classes, torch.full_like(classes, self.model.num_classes)][: self.streams]
        return self.decoder.start(torch.cat(streams).to(self.device))

    def _next_logits(self, step: int) -> Tensor:
        self.decoder.prepare(step)
        return self.decoder.step(self.tokens[step - 1].repeat(self.streams), step)

    def _draw(self, logits: Tensor, steps: Tensor, ids: Tensor) -> Tensor:
        return guided_sample(logits, self.scales[steps], *self.filters, self.seed, ids, steps)

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
        """Kernels are built and memory is found in runs on a stream aside; what they write is written again later."""
        advance = torch.compile(self._device_step, fullgraph=True) if self.compile else self._device_step
        aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.step.zero_()
                advance()
        torch.cuda.current_stream().wait_stream(aside)
        self.step.zero_()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread may be decoding
            advance()
        return graph

    def _device_step(self) -> None:
        """Draws the next token from the last one."""
        tokens = take(self.tokens, self.step).repeat(self.streams)
        self.step += 1
        drawn = self._draw(self.decoder.step(tokens, self.step), self.step, self.ids)
        self.tokens.index_copy_(0, self.step, drawn[None])

    def _around(self, known: Tensor, logits: Tensor) -> Tensor:
        """Draws the tokens that are not `known` (B, L), on the host; the buffer of tokens holds those that are."""
        count, device = len(known), self.device
        for images, steps, runs in rounds(known):
            images, steps = images.to(device), steps.to(device)
            if runs is not None:
                here = runs.to(device)
                tokens = self.tokens[here.steps - 1, here.streams].repeat(self.streams)
                here = here if self.streams == 1 else here.doubled(count)
                logits[here.streams[here.last]] = self.decoder.extend(tokens, here)
            rows = images if self.streams == 1 else torch.cat([images, images + count])
            self.tokens[steps, images] = self._draw(logits[rows], steps, self.ids[images])
        return self.tokens.T.clone()


def take(table: Tensor, index: int | Tensor) -> Tensor:
    """table[index] for an int or an int64 (1,) tensor, without reading the tensor on the host."""
    return table[index] if isinstance(index, int) else table.index_select(0, index)[0]


def guidance_ramp(scale: float, power: float | None, length: int) -> Tensor:
    """Guidance scale at every step, float32 (length,): 1 + (s - 1) (1 - cos(pi (t / L)^p)) / 2, or s (section 5)."""
    if power is None:
        return torch.full((length,), float(scale))
    shares = [(1 - math.cos(math.pi * (step / length) ** power)) / 2 for step in range(length)]
    return torch.tensor([1 + (scale - 1) * share for share in shares])


def keep_mask(ratio: float, seed: int, sample_ids: Tensor, length: int) -> Tensor:
    """Which tokens are kept, bool (B, L), each with probability `ratio`: nested in the ratio for one seed."""
    steps = torch.arange(length, device=sample_ids.device)
    return keyed_words(seed, KEEP, sample_ids[:, None], steps)[0] < math.floor(ratio * 2**32)


def check_classes(classes: Tensor, count: int) -> None:
    """Raises ValueError where a class is none of 0..count-1."""
    wrong = classes[(classes < 0) | (classes >= count)].tolist()
    expected = f"classes 0..{count - 1}, which the generator knows"
    _expect(classes.ndim == 1 and len(classes) > 0, "classes", tuple(classes.shape), "one class for each image, (B,)")
    _expect(not wrong, "classes", wrong[:5], expected)


def _expect(holds: bool, name: str, found, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name}: found {found}, expected {expected}")
