"""One new place in every sequence: its key and value go into the cache, and its query attends to all that is there.

There are three ways (one Triton kernel, torch's scaled_dot_product_attention, flash-attn); `fastest_attention` measures
which is fastest on this GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .attention import flash_attention, sdpa_attention, triton_attention
from .measured_choice import choose_fastest, graph_milliseconds


class NewPlaces(NamedTuple):
    """What a layer makes of R new places, and what their queries and keys are still waiting for."""

    qkv: Tensor  # (R, (H + 2 G) width): H heads of queries, G of keys, G of values
    split: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]  # qkv -> finished q (R, H, width), k and v (R, G, width)
    # What `split` does to queries and keys, for a kernel that does it itself; None: nothing.
    norms: tuple[Tensor, ...] | None = None  # layer norm: weight and bias (width) of queries, then of keys
    epsilon: float = 0.0
    rotation: tuple[Tensor, Tensor] | None = None  # cosine and sine float32 (1, width / 2): every sequence is there


# (new, keys, values, place, ahead) -> (S, H * width) in qkv's dtype, no gradient. Caches (S, G, T, width) are written
# at place + ahead. place: an int, or int64 (1,) that the host does not read and a kernel reads as it is in memory.
Append = Callable[[NewPlaces, Tensor, Tensor, "int | Tensor", int], Tensor]


def append_with(attention: Callable[..., Tensor]) -> Append:
    """The way that finishes queries and keys, stores, and attends, one after the other."""

    def append(new: NewPlaces, keys: Tensor, values: Tensor, place: int | Tensor, ahead: int) -> Tensor:
        place = place + ahead
        q, k, v = new.split(new.qkv)
        where = slice(place, place + 1) if isinstance(place, int) else place
        keys[:, :, where] = k[:, :, None]
        values[:, :, where] = v[:, :, None]
        seen = (place + 1, None) if isinstance(place, int) else (keys.shape[2], place[:, None])
        return attention(q.unflatten(1, (keys.shape[1], -1)), keys, values, *seen).flatten(1)

    return append


append_sdpa = append_with(sdpa_attention)
append_flash = append_with(flash_attention)


def append_triton(new: NewPlaces, keys: Tensor, values: Tensor, place: int | Tensor, ahead: int) -> Tensor:
    """The way of one kernel: it normalises or turns query and key, stores key and value and reads the others once.

    Where query heads share a head of the cache: `append_with` the kernel for several queries. Raises ImportError
    without Triton.
    """
    groups, width = keys.shape[1], keys.shape[3]
    heads = new.qkv.unflatten(1, (-1, width))
    if heads.shape[1] > 3 * groups:
        return append_with(triton_attention)(new, keys, values, place, ahead)
    from ...kernels.attention import append_and_attend

    place = torch.full((1,), place, device=keys.device) if isinstance(place, int) else place
    places = place.expand(len(keys), 1)
    parts = heads.split(groups, 1)
    return append_and_attend(*parts, keys, values, places, ahead, new.norms, new.epsilon, new.rotation).flatten(1)


def append(new: NewPlaces, keys: Tensor, values: Tensor, place: int | Tensor, ahead: int) -> Tensor:
    """The usual way for the device: Triton on a GPU, elsewhere scaled_dot_product_attention."""
    return (append_triton if keys.is_cuda else append_sdpa)(new, keys, values, place, ahead)


CANDIDATES: dict[str, Append] = {"triton": append_triton, "sdpa": append_sdpa, "flash-attn": append_flash}


def choices_file() -> Path:
    """Where the choices of this machine are kept: beside torch's own cache (TORCH_HOME)."""
    return Path(torch.hub.get_dir()).parent / "robustok-attention.json"


def fastest_attention(keys: Tensor, file: Path | None = None, queries: int = 1) -> Append:
    """The way that is fastest on half-filled caches like `keys` (S, G, T, width).

    queries: how many a sequence has for each head of the cache; several where query heads share one.
    On a GPU it is measured once for each shape, dtype and device, and kept in `file` (None: `choices_file()`).
    Elsewhere it is scaled_dot_product_attention.
    """
    if not keys.is_cuda:
        return append_sdpa
    streams, groups, length, width = keys.shape
    new = NewPlaces(keys.new_zeros(streams, (queries + 2) * groups * width), partial(_plain_heads, groups, width))
    place = torch.full((1,), length // 2, device=keys.device)
    arguments = new, keys.clone(), keys.clone(), place, 0
    flash = "with flash-attn" if find_spec("flash_attn") else "without flash-attn"
    name = torch.cuda.get_device_name(keys.device)
    key = f"{name}, {tuple(keys.shape)}, {keys.dtype}, torch {torch.__version__}, {flash}, storing"
    key += f", {queries} queries" if queries > 1 else ""
    runs = {name: partial(run, *arguments) for name, run in CANDIDATES.items()}
    milliseconds = partial(graph_milliseconds, device=keys.device)
    return CANDIDATES[choose_fastest(key, runs, file or choices_file(), milliseconds)]


def _plain_heads(groups: int, width: int, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = qkv.unflatten(1, (-1, width)).tensor_split((-2 * groups, -groups), 1)
    return q, k, v
