"""Convolutional latents as rows of vectors, which all operations take, and back."""

from torch import Tensor

from ..core.errors import UserError


def from_grid(z: Tensor) -> Tensor:
    """Latents of a convolutional encoder (B, C, H, W) -> rows (B, H * W, C), row-major (h * W + w).

    A view where the strides allow it; differentiable. Raises: UserError, a ValueError, for other than four dimensions.
    """
    if z.ndim != 4:
        raise UserError(f"z: found shape {tuple(z.shape)}, expected (B, C, H, W)")
    return z.flatten(2).mT


def to_grid(rows: Tensor, height: int | None = None) -> Tensor:
    """Rows (B, L, C) -> (B, C, H, W), the way back from `from_grid`; contiguous, differentiable.

    height: H, which divides L; None: a square. Raises: UserError, a ValueError, where L rows make no such grid.
    """
    if rows.ndim != 3:
        raise UserError(f"rows: found shape {tuple(rows.shape)}, expected (B, L, C)")
    B, L, C = rows.shape
    H = round(L**0.5) if height is None else height
    if H < 1 or L % H or (height is None and H * H != L):
        expected = "a square number of them, or a height" if height is None else f"a multiple of height = {height}"
        raise UserError(f"rows: found {L} an image, expected {expected}")
    return rows.mT.reshape(B, C, H, L // H).contiguous()
