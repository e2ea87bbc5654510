"""Rotary positions: queries and keys turn by angles that depend on where their token is (arXiv 2104.09864).

Neighbouring channels form pairs, and a pair (a, b) becomes (a cos - b sin, a sin + b cos).
"""

import torch
from torch import Tensor

BASE = 10000.0


def rotary_table(rows: Tensor, columns: Tensor, width: int, prefix: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the places of a sequence, float32 (prefix + L, 1, width), for `rotate`.

    The first half of a head's pairs turns with the row, the second with the column; pair i of a half has the frequency
    BASE^(-2i / (width / 2)).

    Args:
        rows, columns: (L,), where each token is.
        width: channels of a head, a multiple of 4.
        prefix: places before the first token. Cosine and sine are both 0 there, as in LlamaGen's published code: their
            queries and keys become zero.
    """
    half = width // 2
    frequencies = BASE ** -(torch.arange(0, half, 2, device=rows.device) / half)
    angles = torch.cat([rows[:, None] * frequencies, columns[:, None] * frequencies], 1)
    cos, sin = angles.cos(), angles.sin()
    pairs = torch.stack([torch.stack([cos, cos], -1), torch.stack([-sin, sin], -1)]).flatten(2)
    cos, sin = torch.nn.functional.pad(pairs, (0, 0, prefix, 0))[:, :, None]
    return cos, sin


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (..., heads, width) turned, in float32 and then rounded to its dtype; cos, sin broadcast to x."""
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cos, swapped, sin).to(x.dtype)
