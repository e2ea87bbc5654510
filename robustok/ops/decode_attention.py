"""Attention of the newest place(s) of many short sequences over their key/value cache."""

from torch import Tensor
from torch.nn import functional as F


def decode_attention(query: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
    """softmax(q k^T / sqrt(width)) v over the first `length` places of the cache.

    query (S, H, 1, width); keys, values (S, H, T, width) with T >= length. Returns (S, H, 1, width).
    """
    return F.scaled_dot_product_attention(query, keys[:, :, :length], values[:, :, :length])
