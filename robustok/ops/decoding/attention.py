"""Attention of the newest places of many short sequences over their static key/value cache.

There are three implementations (Triton, torch's scaled_dot_product_attention, flash-attn). `decode_attention` takes the
usual one for the device.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


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
