"""Numbers as people bring them (lists, NumPy, small integer types), turned into what the operations take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError

Indices: TypeAlias = Tensor | np.ndarray | Sequence[Any]  # integers of any width, lists nested

_SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)
_UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def as_indices(
    name: str,
    values: Indices,
    size: int | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Tokens, classes or ids as int64 of the same shape, on `device` (None: where they are), checked.

    Args:
        values: a tensor, NumPy array or (nested) list of integers of any width.
        size: they must lie in [0, size); None: any.

    Raises: TypeError for what are no integers, UserError (a ValueError) for an index out of range. Of a tensor on a
    GPU, which nothing waits for, and in a compiled or exported graph, a RuntimeError with that range when it runs.
    """
    if not isinstance(values, Tensor):
        values = _as_tensor(name, values)
    elif values.dtype not in _SIGNED + _UNSIGNED:
        raise TypeError(f"{name}: found {values.dtype}, expected integers")
    indices = values.to(torch.int64)
    if size is not None:
        _check_range(name, indices, size)
    return indices.to(device)


def _check_range(name: str, indices: Tensor, size: int) -> None:
    if indices.is_cuda or torch.compiler.is_compiling():
        torch._assert_async(((indices >= 0) & (indices < size)).all(), f"{name}: expected integers 0..{size - 1}")
    elif indices.numel() and not 0 <= indices.min() <= indices.max() < size:
        wrong = indices[(indices < 0) | (indices >= size)][:5].tolist()
        raise UserError(f"{name}: found {wrong}, expected integers 0..{size - 1}")


def count_indices(indices: Tensor, size: int) -> Tensor:
    """How often each of 0..size - 1 is in int64 indices of any shape: int64 (size,). Nothing waits for the device."""
    flat = indices.flatten()
    return flat.new_zeros(size).scatter_add_(0, flat, torch.ones_like(flat))


def _as_tensor(name: str, values: Any) -> Tensor:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name}: found {array.dtype}, expected integers")
    return torch.from_numpy(array.astype(np.int64, order="C"))


def plain_number(value: Any) -> Any:
    """A NumPy number as Python's; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value
