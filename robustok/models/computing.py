"""How a tokenizer computes where images are judged: exactly, or faster and held against exact at its first batch."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.graphs import capture
from .compiling import compile_blocks
from .interfaces import LoadedTokenizer
from .precision import without_tf32

Precision = Literal["float32", "bfloat16"]

LEAST_PSNR = 40.0  # dB between an image decoded fast and exactly: 2.6 of 255 grey levels, root mean square
CHECKED = 8  # images that are decoded exactly, too


def compute_in(tokenizer: LoadedTokenizer, precision: Precision, compiled: bool = False) -> LoadedTokenizer:
    """Lets `encode` and `decode`, and with them all that a tokenizer does, compute in a precision; returns it.

    Args:
        precision: "float32": exact, also in convolutions on a GPU, which would take TF32. "bfloat16": under autocast;
            latents are still projected and compared with codes in float32, but some get another code.
        compiled: blocks are compiled at their first call. Batches are then filled up to the largest one so far, as
            another size would compile again; what was filled in is computed and dropped. Without gradients a GPU
            replays the whole as one captured graph, which keeps the memory of a batch's activations.

    What is not both float32 and eager decodes CHECKED images of its first batch exactly, too: UserError there where one
    of them is less than LEAST_PSNR from itself. Outputs are float32. Gradients pass.
    """
    for name, modules in (("encode", tokenizer.encoder_side()), ("decode", tokenizer.decoder_side())):
        setattr(tokenizer, name, _Computed(tokenizer, name, modules, getattr(torch, precision), compiled))
    tokenizer.computed_in = precision
    return tokenizer


def precision_of(tokenizer: object) -> str:
    """The precision that a tokenizer computes in."""
    return getattr(tokenizer, "computed_in", "float32")


class _Computed:
    """`encode` or `decode` of a tokenizer, which it does not keep: its memory is free when nobody else does."""

    def __init__(self, tokenizer, name: str, modules: Iterable[nn.Module], dtype: torch.dtype, compiled: bool):
        self.tokenizer, self.call = weakref.ref(tokenizer), getattr(type(tokenizer), name)
        self.modules, self.dtype, self.compiled = tuple(modules), dtype, compiled
        self.unchecked = name == "decode" and (compiled or dtype != torch.float32)
        self.batch = 0  # rows of the largest batch so far
        self.captured: object = None  # what the graph depends on

    def __call__(self, rows: Tensor) -> Tensor:
        exact = self._exactly(rows[:CHECKED]) if self.unchecked else None  # before anything is compiled
        if self.compiled and self.batch == 0:
            for module in self.modules:
                compile_blocks(module, dynamic=False)
        self.batch = max(self.batch, len(rows))
        missing = self.batch - len(rows) if self.compiled else 0
        full = torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows
        replayed = self.compiled and _on_a_gpu(rows) and not torch.is_grad_enabled()
        found = (self._replay(full) if replayed else self._in(self.dtype, full))[: len(rows)].float()
        if exact is not None:
            _check(found[:CHECKED].detach(), exact, self.dtype)
            self.unchecked = False
        return found

    def _replay(self, rows: Tensor) -> Tensor:
        """The same from a graph, which is captured anew where rows have another shape, or weights another place."""
        tensors = (tensor for module in self.modules for tensor in (*module.parameters(), *module.buffers()))
        depends_on = (rows.shape, rows.dtype, rows.device, [tensor.data_ptr() for tensor in tensors])
        if self.captured != depends_on:
            with torch.inference_mode(False):  # so that any mode may write it
                self.given = torch.zeros_like(rows)
            self.graph, self.captured = capture(self._run, rows.device), depends_on
        self.given.copy_(rows)
        self.graph.replay()
        return self.found.clone()

    def _run(self) -> None:
        """What a graph is captured of: it reads and writes the same places every time."""
        self.found = self._in(self.dtype, self.given)

    @torch.no_grad()
    def _exactly(self, rows: Tensor) -> Tensor:
        return self._in(torch.float32, rows)

    def _in(self, dtype: torch.dtype, rows: Tensor) -> Tensor:
        with (
            without_tf32(benchmark=self.compiled),
            torch.autocast(rows.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16),
        ):
            return self.call(self.tokenizer(), rows)


def _on_a_gpu(rows: Tensor) -> bool:
    return rows.is_cuda


def _check(found: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """Refuses images in [-1, 1], clamped here, of which one is too far from the exact one."""
    error = (found.clamp(-1, 1) - exact.clamp(-1, 1)).square().flatten(1).mean(1).amax().item()
    psnr = math.inf if error == 0 else 10 * math.log10(4 / error) if error > 0 else math.nan
    if not psnr >= LEAST_PSNR:
        raise UserError(
            f"decoding in {str(dtype).removeprefix('torch.')}: an image is {psnr:.1f} dB (PSNR) from that in float32, "
            f"expected at least {LEAST_PSNR:.0f} dB; use --tokenizer_precision float32 --no-compile"
        )
