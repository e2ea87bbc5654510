"""The Triton backend (kernels/): on a GPU, or on the CPU in Triton's interpreter. Never waits for the device."""

import importlib.metadata
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import Shape
from ..gradients import through_compared
from ..reference import Draw, Perturbed, Quantized

try:
    from robustok.kernels import codes as kernel_codes
    from robustok.kernels import draw as kernel_draw
    from robustok.kernels import nearest as kernel_nearest
    from robustok.kernels import quantize as kernel_quantize
    from robustok.kernels import rows as kernel_rows
    from robustok.kernels import select as kernel_select

    IMPORT_ERROR = None
except ImportError as error:
    IMPORT_ERROR = error

_BLOCK_TOKENS = 1 << 19  # of one block: narrow rows have more indices than coordinates
MAX_CODES = 1 << 17
_BLOCK_ELEMENTS = 1 << 21  # of the float32 rows compared, one block of tokens: 8 MB


def _version(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in importlib.metadata.version(package).split(".")[:2])


def missing(device: torch.device, shape: Shape | None = None) -> str | None:
    if IMPORT_ERROR is not None:
        return f"Triton cannot be imported ({IMPORT_ERROR})"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it needs a CUDA device, the tensors are on {device.type} (TRITON_INTERPRET=1 runs it there, slowly)"
    if device.type != "cuda" and _version("triton") < (3, 7) and _version("numpy") >= (2, 4):
        return "the interpreter of Triton 3.6 fails with NumPy 2.4 and newer; numpy<2.4 or a newer Triton runs it"
    if shape is not None and shape.K > MAX_CODES:
        return f"a program holds the scores of all codes: found K = {shape.K}, at most {MAX_CODES}"
    return None


def row_blocks(z: Tensor, normalize: bool):
    """Block by block of z (B, L, D): its tokens, numbered through, and their rows as compared."""
    B, L, D = z.shape
    step = max(1, min(_BLOCK_TOKENS, _BLOCK_ELEMENTS // D))
    for first in range(0, B * L, step):
        count = min(step, B * L - first)
        yield slice(first, first + count), kernel_rows.unit_rows(z, first, count, normalize)


def rank_drawer(draw: Draw, L: int) -> Callable[[slice], Tensor]:
    """Tokens -> int32 ranks, as `reference.draw_ranks`, of those whose image is perturbed, which come first."""
    ids = draw.sample_ids.contiguous()
    threshold = (draw.alpha * 2.0**32).floor().long()
    # a number of the host is filled in, not copied: a graph cannot capture a copy from memory that is not pinned
    numbers = [
        value if value.device == ids.device else ids.new_full((), value.item())
        for value in (threshold, draw.delta, draw.seed)
    ]

    def ranks(tokens: slice) -> Tensor:
        count = max(0, min(tokens.stop, draw.num_images * L) - tokens.start)
        return kernel_draw.draw_ranks(ids, L, *numbers, tokens.start, count)

    return ranks


class Search(NamedTuple):
    """How rows find their codes; the rest is the same for the compiled CUDA kernels."""

    nearest: Callable  # float32 rows u (R, D), Codes, out int64 (R,)
    select: Callable  # u, Codes, ranks int32 (R,), out int64 (R,), written where the rank is not 0


def triton_search() -> Search:
    return Search(kernel_nearest.nearest, kernel_select.select)


def perturb_codes(search: Search, u: Tensor, codes, ranks: Tensor, draw: Draw, around: str, indices: Tensor) -> None:
    """Replace the nearest codes in indices (R,) of float32 rows (R, D): the first len(ranks) may be perturbed."""
    M, K = len(ranks), len(codes.rows)
    if M == 0:
        return
    if around == "latent":
        search.select(u[:M], codes, ranks, indices[:M])
    elif not draw.delta.is_cuda and K < M and K * int(draw.delta) <= _BLOCK_ELEMENTS:  # its width must be known here
        table = torch.empty(K, int(draw.delta), dtype=torch.int64, device=u.device)
        kernel_select.neighbors(codes.rows, codes, table)
        indices[:M] = table[indices[:M], ranks.long()]
    else:
        search.select(codes.rows[indices[:M]], codes, ranks, indices[:M])


def nearest(z: Tensor, codebook: Tensor, normalize: bool, search: Search | None = None) -> Tensor:
    search = search or triton_search()
    codes = kernel_codes.prepare(codebook, normalize)
    out = torch.empty(z.shape[:2], dtype=torch.int64, device=z.device)
    for tokens, u in row_blocks(z, normalize):
        search.nearest(u, codes, out.view(-1)[tokens])
    return out


def neighbors(query: Tensor, codebook: Tensor, delta: int, normalize: bool) -> Tensor:
    codes = kernel_codes.prepare(codebook, normalize)
    out = torch.empty(*query.shape[:2], delta, dtype=torch.int64, device=query.device)
    for tokens, u in row_blocks(query, normalize):
        kernel_select.neighbors(u, codes, out.view(-1, delta)[tokens])
    return out


def select_blocks(
    search: Search, z: Tensor, codes, draw: Draw, around: str, normalize: bool, clean: Tensor, indices: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Block by block of z (B, L, D): its tokens and its rows, once their codes are in clean and indices (B, L)."""
    ranks = rank_drawer(draw, z.shape[1])
    for tokens, u in row_blocks(z, normalize):
        nearest, chosen = clean.view(-1)[tokens], indices.view(-1)[tokens]
        search.nearest(u, codes, nearest)
        chosen.copy_(nearest)
        perturb_codes(search, u, codes, ranks(tokens), draw, around, chosen)
        yield tokens, u


def perturb(
    z: Tensor, codebook: Tensor, draw: Draw, around: str, normalize: bool, search: Search | None = None
) -> Perturbed:
    search = search or triton_search()
    codes, D = kernel_codes.prepare(codebook, normalize), z.shape[2]
    z_q = z.new_empty(z.shape)
    indices, clean = (torch.empty(z.shape[:2], dtype=torch.int64, device=z.device) for _ in range(2))
    for tokens, u in select_blocks(search, z, codes, draw, around, normalize, clean, indices):
        kernel_quantize.straight_through(u, codes.rows, indices.view(-1)[tokens], z_q.view(-1, D)[tokens])
    return Perturbed(z_q, indices, clean)


def quantize(
    z: Tensor, codebook: Tensor, draw: Draw, around: str, normalize: bool, search: Search | None = None
) -> Quantized:
    search = search or triton_search()
    codes = kernel_codes.prepare(codebook, normalize)
    D = z.shape[2]
    z_q, z_q_clean = z.new_empty(z.shape), z.new_empty(z.shape)
    indices, clean = (torch.empty(z.shape[:2], dtype=torch.int64, device=z.device) for _ in range(2))
    usage = torch.zeros(len(codebook), dtype=torch.int64, device=z.device)
    total = torch.zeros((), dtype=torch.float64, device=z.device)
    for tokens, u in select_blocks(search, z, codes, draw, around, normalize, clean, indices):
        found = clean.view(-1)[tokens], indices.view(-1)[tokens]
        outputs = z_q.view(-1, D)[tokens], z_q_clean.view(-1, D)[tokens]
        total += kernel_quantize.finish(u, codes.rows, *found, *outputs, usage)
    loss = (total / max(1, z.numel())).float()
    return Quantized(z_q, indices, clean, z_q_clean, loss, loss.clone(), usage)


def perturb_backward(z: Tensor, grad: Tensor, normalize: bool) -> Tensor:
    nothing = z.new_zeros(1, z.shape[2], dtype=torch.float32)
    nearest = torch.zeros(z.shape[:2], dtype=torch.int64, device=z.device)
    return kernel_quantize.backward(z, [grad], nothing, nearest, None, None, normalize)[0]


def quantize_backward(
    z: Tensor,
    codebook: Tensor,
    nearest: Tensor,
    straight: list[Tensor],
    vq: Tensor | None,
    commit: Tensor | None,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    codes = kernel_rows.unit_rows(codebook[None], 0, len(codebook), normalize)
    dz, de = kernel_quantize.backward(z, straight, codes, nearest, vq, commit, normalize)
    return dz, through_compared(codebook, de, normalize)
