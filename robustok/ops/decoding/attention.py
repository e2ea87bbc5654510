"""Attention of the newest places of many short sequences over their static key/value cache.

There are three implementations (Triton, torch's scaled_dot_product_attention, flash-attn). `decode_attention` takes the
usual one for the device; `fastest_attention` measures which is fastest on this GPU.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from .measured_choice import choose_fastest, graph_milliseconds


def decode_attention(query: Tensor, keys: Tensor, values: Tensor, length: int, places: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(width)) v over the places of the cache that each query sees. No gradient.

    Args:
        query: (S, H, n, width), n new places of S sequences.
        keys, values: (S, H, T, width), the caches, of equal strides.
        length: how many places of the caches are filled at most, 1..T.
        places: int64 (S, n), the last place each query sees, below `length`; None: every query sees `length` places.

    Returns: (S, H, n, width) in query's dtype.

    On a GPU a Triton kernel, elsewhere scaled_dot_product_attention.
    """
    return (triton_attention if query.is_cuda else sdpa_attention)(query, keys, values, length, places)


def triton_attention(query: Tensor, keys: Tensor, values: Tensor, length: int, places: Tensor | None = None) -> Tensor:
    """`decode_attention` in Triton: reads each key once and stops at the last place seen, known on the device alone.

    Raises ImportError without Triton.
    """
    from ...kernels.attention import decode_attention as kernel

    if places is None:
        places = torch.full((1, 1), length - 1, device=query.device)
    return kernel(query, keys, values, places.expand(query.shape[0], query.shape[2]))


def sdpa_attention(query: Tensor, keys: Tensor, values: Tensor, length: int, places: Tensor | None = None) -> Tensor:
    """`decode_attention` by torch: reads all of the first `length` places and masks those not seen."""
    mask = None if places is None else (torch.arange(length, device=query.device) <= places[..., None])[:, None]
    return F.scaled_dot_product_attention(query, keys[:, :, :length], values[:, :, :length], mask)


def flash_attention(query: Tensor, keys: Tensor, values: Tensor, length: int, places: Tensor | None = None) -> Tensor:
    """`decode_attention` by flash-attn, for queries of one place a sequence.

    Raises ImportError without the package, TypeError for a dtype that it does not take.
    """
    if query.dtype not in (torch.float16, torch.bfloat16):
        raise TypeError(f"flash-attn takes float16 and bfloat16, found {query.dtype}")
    seen = torch.full((1,), length, device=query.device) if places is None else places[:, 0] + 1
    return _flash(query, keys, values, seen.to(torch.int32).expand(len(query)).contiguous())


@torch.library.custom_op("robustok::flash_decode", mutates_args=())
def _flash(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    from flash_attn import flash_attn_with_kvcache

    swapped = (part.transpose(1, 2) for part in (query, keys, values))  # its caches are (S, T, H, width)
    return flash_attn_with_kvcache(*swapped, cache_seqlens=seen).transpose(1, 2).contiguous()


@_flash.register_fake
def _(query, keys, values, seen):
    return query.new_empty(query.shape)


CANDIDATES: dict[str, Callable[..., Tensor]] = {
    "triton": triton_attention,
    "sdpa": sdpa_attention,
    "flash-attn": flash_attention,
}


def choices_file() -> Path:
    """Where the choices of this machine are kept: beside torch's own cache (TORCH_HOME)."""
    return Path(torch.hub.get_dir()).parent / "robustok-attention.json"


def fastest_attention(keys: Tensor, file: Path | None = None, queries: int = 1) -> Callable[..., Tensor]:
    """The implementation that is fastest for queries of one place on half-filled caches like `keys` (S, H, T, width).

    queries: how many a sequence has for each head of the cache; several where query heads share one.
    On a GPU it is measured once for each shape, dtype and device, and kept in `file` (None: `choices_file()`).
    Elsewhere it is scaled_dot_product_attention.
    """
    if not keys.is_cuda:
        return sdpa_attention
    length = keys.shape[2]
    query = keys[:, :, :1].repeat(1, 1, queries, 1)
    arguments = query, keys, keys, length, torch.full((1, 1), length // 2, device=keys.device)
    flash = "with flash-attn" if find_spec("flash_attn") else "without flash-attn"
    name = torch.cuda.get_device_name(keys.device)
    key = f"{name}, {tuple(keys.shape)}, {keys.dtype}, torch {torch.__version__}, {flash}"
    key += f", {queries} queries" if queries > 1 else ""
    runs = {name: partial(run, *arguments) for name, run in CANDIDATES.items()}
    return CANDIDATES[choose_fastest(key, runs, file or choices_file(), graph_milliseconds)]
