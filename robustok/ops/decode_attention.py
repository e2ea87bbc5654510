"""Attention of the newest places of many short sequences over their static key/value cache."""

import torch
from torch import Tensor
from torch.nn import functional as F


def decode_attention(query: Tensor, keys: Tensor, values: Tensor, length: int, places: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(width)) v over the places that each query sees. No gradient.

    Args:
        query: (S, H, n, width), n new places of S streams.
        keys, values: (S, H, T, width), the caches, of equal strides.
        length: how many places of the caches are filled at most, 1..T.
        places: int64 (S, n), the last place each query sees, below `length`; None: every query sees `length` places.

    Returns: (S, H, n, width) in query's dtype.

    On a GPU a Triton kernel reads each key once and stops at the last place seen, known on the device alone;
    elsewhere scaled_dot_product_attention.
    """
    if query.is_cuda:
        from ..kernels.attention import decode_attention as kernel

        if places is None:
            places = torch.full((1, 1), length - 1, device=query.device)
        return kernel(query, keys, values, places.expand(query.shape[0], query.shape[2]))
    mask = None if places is None else (torch.arange(length, device=query.device) <= places[..., None])[:, None]
    return F.scaled_dot_product_attention(query, keys[:, :, :length], values[:, :, :length], mask)
