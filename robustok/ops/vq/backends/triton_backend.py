"""The Triton backend (kernels/): on a GPU, or on the CPU in Triton's interpreter. Never waits for the device."""

import functools
import importlib.metadata
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..draws import threshold
from ..gradients import through_normalization
from ..types import CodebookShape, Draw, Perturbed, Quantized, QuantizedGradients, Similarity

try:
    import robustok.kernels.codes as kernel_codes
    import robustok.kernels.draw as kernel_draw
    import robustok.kernels.nearest as kernel_nearest
    import robustok.kernels.neighbors as kernel_neighbors
    import robustok.kernels.quantize as kernel_quantize
    import robustok.kernels.rows as kernel_rows
    import robustok.kernels.select as kernel_select

    IMPORT_ERROR = None
except ImportError as error:
    IMPORT_ERROR = error

MAX_CODES = 1 << 17  # whose scores one program holds
_BLOCK_TOKENS = 1 << 18  # tokens in a block: lists of rows take up to 40 bytes a token
_BLOCK_ELEMENTS = 5 << 21  # numbers in a block of float32 rows (40 MiB): with lists and table less than 64 MiB
_TABLE_ELEMENTS = 1 << 21  # numbers in a table of neighbours (16 MB)


def _version(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in importlib.metadata.version(package).split(".")[:2])


@functools.cache
def launcher_lacks() -> str | None:
    """What Triton compiles its launchers with at the first call on a GPU, and this machine lacks; None: nothing."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "no C compiler (CC, gcc or clang)"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return None if header.is_file() else f"no {header} (Python's headers for C)"


def row_blocks(z: Tensor, similarity: Similarity) -> Iterator[tuple[slice, Tensor]]:
    """Block by block of z (B, L, D): which tokens of the batch these are, and their normalised rows (R, D).

    The rows of a block take the memory of those before it.
    """
    B, L, D = z.shape
    step = max(1, min(_BLOCK_TOKENS, _BLOCK_ELEMENTS // D, B * L))
    memory = torch.empty(step, D, dtype=torch.float32, device=z.device)
    for first in range(0, B * L, step):
        rows = memory[: min(step, B * L - first)]
        kernel_rows.normalize_rows(z, first, rows, similarity == "cosine")
        yield slice(first, first + len(rows)), rows


def rank_drawer(draw: Draw, L: int) -> Callable[[slice], Tensor]:
    """A function that gives a block's tokens their ranks, int32, as `draws.draw_ranks`.

    Only for those whose image is perturbed, which are the first of the batch.
    """
    ids = draw.sample_ids.contiguous()
    # A number of the host is filled in, not copied: a graph cannot capture a copy from memory that is not pinned.
    numbers = [
        value if value.device == ids.device else ids.new_full((), value.item())
        for value in (threshold(draw.alpha), draw.delta, draw.seed)
    ]

    def ranks(tokens: slice) -> Tensor:
        count = max(0, min(tokens.stop, draw.num_images * L) - tokens.start)
        return kernel_draw.draw_ranks(ids, L, *numbers, tokens.start, count)

    return ranks


class TritonBackend:
    name = "triton"
    devices: tuple[str, ...] = ("cuda",)

    def missing(self, device: torch.device, shape: CodebookShape | None = None) -> str | None:
        if IMPORT_ERROR is not None:
            return f"Triton cannot be imported ({IMPORT_ERROR})"
        if shape is not None and shape.K > MAX_CODES:
            return f"a program holds the scores of all codes: found K = {shape.K}, at most {MAX_CODES}"
        if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            interpreter = "(TRITON_INTERPRET=1 runs it there, slowly)"
            return f"it needs a CUDA device, the tensors are on {device.type} {interpreter}"
        if device.type != "cuda" and _version("triton") < (3, 7) and _version("numpy") >= (2, 4):
            return "the interpreter of Triton 3.6 fails with NumPy 2.4 and newer; numpy<2.4 or a newer Triton runs it"
        if device.type == "cuda" and launcher_lacks():
            return f"Triton compiles its launchers at the first call: found {launcher_lacks()}"
        return None

    def prepare(self, codebook: Tensor, similarity: Similarity):
        """The codebook (K, D) in the form that the searches read."""
        return kernel_codes.prepare(codebook, similarity == "cosine", similarity == "dot")

    def nearest(self, z: Tensor, codebook: Tensor, similarity: Similarity) -> Tensor:
        codes = self.prepare(codebook, similarity)
        out = torch.empty(z.shape[:2], dtype=torch.int64, device=z.device)
        for tokens, u in row_blocks(z, similarity):
            kernel_nearest.nearest(u, codes, out.view(-1)[tokens])
        return out

    def neighbors(self, query: Tensor, codebook: Tensor, delta: int, similarity: Similarity) -> Tensor:
        codes = self.prepare(codebook, similarity)
        out = torch.empty(*query.shape[:2], delta, dtype=torch.int64, device=query.device)
        for tokens, u in row_blocks(query, similarity):
            kernel_neighbors.neighbors(u, codes, out.view(-1, delta)[tokens])
        return out

    def perturb(self, z: Tensor, codebook: Tensor, draw: Draw, neighbors: str, similarity: Similarity) -> Perturbed:
        codes, out = self.prepare(codebook, similarity), Perturbed.empty(z)
        z_q = out.z_q.flatten(0, 1)
        for tokens, u in self._select_blocks(z, codes, draw, neighbors, similarity, out):
            kernel_quantize.straight_through(u, codes.rows, out.indices.view(-1)[tokens], z_q[tokens])
        return out

    def quantize(self, z: Tensor, codebook: Tensor, draw: Draw, neighbors: str, similarity: Similarity) -> Quantized:
        codes, out = self.prepare(codebook, similarity), Quantized.empty(z, len(codebook))
        z_q, z_q_clean = out.z_q.flatten(0, 1), out.z_q_clean.flatten(0, 1)
        total = torch.zeros((), dtype=torch.float64, device=z.device)
        for tokens, u in self._select_blocks(z, codes, draw, neighbors, similarity, out):
            found = out.nearest.view(-1)[tokens], out.indices.view(-1)[tokens]
            total += kernel_quantize.finish(u, codes.rows, *found, z_q[tokens], z_q_clean[tokens], out.usage)
        loss = (total / max(1, z.numel())).float()
        return out._replace(vq_loss=loss, commit_loss=loss.clone())

    def _select_blocks(
        self, z: Tensor, codes, draw: Draw, neighbors: str, similarity: Similarity, out: Perturbed | Quantized
    ) -> Iterator[tuple[slice, Tensor]]:
        """Block by block of z (B, L, D): its tokens and rows, once out.nearest and out.indices hold their codes."""
        ranks = rank_drawer(draw, z.shape[1])
        delta = None if draw.delta.is_cuda else int(draw.delta)
        table = None if neighbors == "latent" else self._table(codes, draw.num_images * z.shape[1], delta)
        for tokens, u in row_blocks(z, similarity):
            nearest, indices = out.nearest.view(-1)[tokens], out.indices.view(-1)[tokens]
            ranked = ranks(tokens)
            M = len(ranked) if neighbors == "latent" else 0  # rows whose nearest code the selection finds by the way
            kernel_select.select(u[:M], codes, ranked[:M], indices[:M], nearest[:M], delta)
            kernel_nearest.nearest(u[M:], codes, nearest[M:])
            indices[M:] = nearest[M:]
            if neighbors == "code":
                self._perturb_codes(codes, ranked, table, indices[: len(ranked)], delta)
            yield tokens, u

    def _table(self, codes, tokens: int, delta: int | None) -> Tensor | None:
        """Neighbours (K, delta) int64 of each code; None where that is more work than a search for each of so many
        tokens, or takes too much memory, or where the host does not know delta."""
        K = len(codes.rows)
        if delta is None or tokens <= K or K * delta > _TABLE_ELEMENTS:
            return None
        table = torch.empty(K, delta, dtype=torch.int64, device=codes.rows.device)
        kernel_neighbors.neighbors(codes.rows, codes, table)
        return table

    def _perturb_codes(self, codes, ranks: Tensor, table: Tensor | None, indices: Tensor, delta: int | None) -> None:
        """Replace codes in indices (M,) by their neighbours at ranks (M,)."""
        if table is not None:
            indices.copy_(torch.where(ranks > 0, table[indices, ranks.long()], indices))
        else:
            kernel_select.select(codes.rows[indices], codes, ranks, indices, delta=delta)

    def perturb_backward(self, z: Tensor, grad: Tensor, similarity: Similarity) -> Tensor:
        return kernel_quantize.backward_of_latents(z, grad, similarity == "cosine")

    def quantize_backward(
        self, z: Tensor, codebook: Tensor, nearest: Tensor, grads: QuantizedGradients, similarity: Similarity
    ) -> tuple[Tensor, Tensor]:
        codes = torch.empty_like(codebook, dtype=torch.float32, memory_format=torch.contiguous_format)
        kernel_rows.normalize_rows(codebook[None], 0, codes, similarity == "cosine")
        dz, de = kernel_quantize.backward(z, codes, nearest, *grads, similarity == "cosine")
        return dz, through_normalization(codebook, de, similarity)
