"""The compiled host backend (csrc/): vectorised for the machine's instruction set, on torch.get_num_threads() threads.

Rows go in as contiguous float32 in blocks, so that 16-bit and strided inputs need memory for one block, not for a copy
of z.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .. import gradients
from ..draws import threshold
from ..gradients import Block, blocks
from ..types import CodebookShape, Draw, Perturbed, Quantized, Similarity

try:
    from robustok import _C
except ImportError as error:
    _C, IMPORT_ERROR = None, error

_BLOCK_ELEMENTS = 1 << 21  # numbers in a block of float32 rows (8 MB), and in a table of neighbours (16 MB)
_BLOCK_TOKENS = 1 << 19  # tokens in a block: narrow rows have more indices than coordinates
_TABLE_FROM = 3  # perturbed tokens for each code from which a table of all neighbours is less work than selecting


def compared_rows(rows: Tensor, similarity: Similarity) -> Tensor:
    """`reference.compared_rows` of rows (R, D): contiguous float32."""
    rows = rows.float().contiguous()
    if similarity != "cosine":
        return rows
    out = torch.empty_like(rows)
    _C.unit_rows(rows.data_ptr(), out.data_ptr(), *rows.shape, torch.get_num_threads())
    return out


def row_blocks(z: Tensor, similarity: Similarity) -> Iterator[tuple[Block, slice, Tensor]]:
    """Block by block of z (B, L, D): its slices, which tokens of the batch these are, and their normalised rows."""
    L, D = z.shape[1:]
    for block in blocks(z.shape, max(1, min(_BLOCK_TOKENS, _BLOCK_ELEMENTS // D))):
        u = compared_rows(z[block].reshape(-1, D), similarity)
        first = block[0].start * L + block[1].start
        yield block, slice(first, first + len(u)), u


class ComparedCodebook(NamedTuple):
    """The rows (K, D) that the extension reads, and how it compares them."""

    rows: Tensor  # contiguous float32
    product: bool  # by minus the inner product

    @classmethod
    def of(cls, codebook: Tensor, similarity: Similarity) -> "ComparedCodebook":
        return cls(compared_rows(codebook, similarity), similarity == "dot")


def select_rows(u: Tensor, codes: ComparedCodebook, ranks: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Nearest codes and codes at int32 ranks (R,) of float32 rows (R, D), as int64; the same ones without ranks."""
    nearest = torch.empty(len(u), dtype=torch.int64)
    chosen = nearest if ranks is None else torch.empty_like(nearest)
    _C.select(
        u.data_ptr(),
        len(u),
        codes.rows.data_ptr(),
        *codes.rows.shape,
        0 if ranks is None else ranks.data_ptr(),
        nearest.data_ptr(),
        0 if ranks is None else chosen.data_ptr(),
        torch.get_num_threads(),
        codes.product,
    )
    return nearest, chosen


def neighbor_rows(u: Tensor, codes: ComparedCodebook, delta: int) -> Tensor:
    """The delta nearest codes (R, delta) int64 of float32 rows (R, D)."""
    out = torch.empty(len(u), delta, dtype=torch.int64)
    given = u.data_ptr(), len(u), codes.rows.data_ptr(), *codes.rows.shape, delta, out.data_ptr()
    _C.neighbors(*given, torch.get_num_threads(), codes.product)
    return out


def draw_ranks(draw: Draw, block: Block, L: int) -> Tensor:
    """Ranks int32 (R,) of a block's tokens, as `draws.draw_ranks`; 0 in the images that are not perturbed."""
    images, tokens = block
    ids = draw.sample_ids[images].contiguous()
    ranks = torch.zeros(len(ids), L, dtype=torch.int32)
    perturbed = max(0, min(len(ids), draw.num_images - images.start))
    numbers = threshold(draw.alpha).item(), draw.delta.item(), draw.seed.item()
    _C.draw_ranks(ids.data_ptr(), perturbed, L, *numbers, ranks.data_ptr(), torch.get_num_threads())
    return ranks[:, tokens].flatten()


def select_codes(u: Tensor, codes: ComparedCodebook, ranks: Tensor, neighbors: str) -> tuple[Tensor, Tensor]:
    """Nearest and perturbed codes (R,) int64 of float32 rows (R, D) with ranks (R,) int32."""
    if neighbors == "latent":
        return select_rows(u, codes, ranks)
    nearest, _ = select_rows(u, codes)
    chosen = nearest.clone()
    rows = ranks.nonzero()[:, 0]
    width, K = int(ranks.max()) + 1 if len(rows) else 0, len(codes.rows)
    if len(rows) > _TABLE_FROM * K and K * width <= _BLOCK_ELEMENTS:
        table = neighbor_rows(codes.rows, codes, width)
        chosen[rows] = table[nearest[rows], ranks[rows].long()]
    else:
        _, chosen[rows] = select_rows(codes.rows[nearest[rows]], codes, ranks[rows])
    return nearest, chosen


def straight_through(u: Tensor, codes: Tensor, indices: Tensor, out: Tensor) -> float:
    """Write u + (e - u) to out (R, D), for the codes e at the indices (R,). Returns the sum of (e - u)^2."""
    rows = out if out.dtype == torch.float32 else torch.empty_like(u)
    pointers = [tensor.data_ptr() for tensor in (codes, indices, rows)]
    total = _C.straight_through(u.data_ptr(), *u.shape, *pointers, torch.get_num_threads())
    if rows is not out:
        out.copy_(rows)
    return total


class CppBackend:
    name = "cpp"
    devices: tuple[str, ...] = ("cpu",)
    perturb_backward = staticmethod(gradients.perturb_backward)
    quantize_backward = staticmethod(gradients.quantize_backward)

    def missing(self, device: torch.device, shape: CodebookShape | None = None) -> str | None:
        if _C is None:
            return f"the compiled extension is not there ({IMPORT_ERROR}); it is built where pip finds a C++ compiler"
        if device.type != "cpu":
            return f"it computes on the CPU, the tensors are on {device.type}"
        return None

    def describe(self) -> str:
        """For people: which code the extension runs, or why there is none."""
        if _C is None:
            return f"not there ({IMPORT_ERROR})"
        return f"built, scoring with {_C.instruction_set()} instructions"

    def nearest(self, z: Tensor, codebook: Tensor, similarity: Similarity) -> Tensor:
        codes = ComparedCodebook.of(codebook, similarity)
        out = torch.empty(z.shape[:2], dtype=torch.int64)
        for _, tokens, u in row_blocks(z, similarity):
            out.view(-1)[tokens] = select_rows(u, codes)[0]
        return out

    def neighbors(self, query: Tensor, codebook: Tensor, delta: int, similarity: Similarity) -> Tensor:
        codes = ComparedCodebook.of(codebook, similarity)
        out = torch.empty(*query.shape[:2], delta, dtype=torch.int64)
        for _, tokens, u in row_blocks(query, similarity):
            out.view(-1, delta)[tokens] = neighbor_rows(u, codes, delta)
        return out

    def perturb(self, z: Tensor, codebook: Tensor, draw: Draw, neighbors: str, similarity: Similarity) -> Perturbed:
        codes, out = ComparedCodebook.of(codebook, similarity), Perturbed.empty(z)
        z_q = out.z_q.flatten(0, 1)
        for block, tokens, u in row_blocks(z, similarity):
            nearest, chosen = select_codes(u, codes, draw_ranks(draw, block, z.shape[1]), neighbors)
            straight_through(u, codes.rows, chosen, z_q[tokens])
            out.indices.view(-1)[tokens], out.nearest.view(-1)[tokens] = chosen, nearest
        return out

    def quantize(self, z: Tensor, codebook: Tensor, draw: Draw, neighbors: str, similarity: Similarity) -> Quantized:
        codes, out = ComparedCodebook.of(codebook, similarity), Quantized.empty(z, len(codebook))
        z_q, z_q_clean = out.z_q.flatten(0, 1), out.z_q_clean.flatten(0, 1)
        total = 0.0
        for block, tokens, u in row_blocks(z, similarity):
            nearest, chosen = select_codes(u, codes, draw_ranks(draw, block, z.shape[1]), neighbors)
            straight_through(u, codes.rows, chosen, z_q[tokens])
            total += straight_through(u, codes.rows, nearest, z_q_clean[tokens])
            out.usage.add_(nearest.bincount(minlength=len(codebook)))
            out.indices.view(-1)[tokens], out.nearest.view(-1)[tokens] = chosen, nearest
        loss = torch.tensor(total / max(1, z.numel()), dtype=torch.float32)
        return out._replace(vq_loss=loss, commit_loss=loss.clone())
