"""Linear layers of a decoding step, each with what stands before and behind it: one kernel where rows are few.

With attention that finishes its own queries and keys, a layer of a transformer is then five kernels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..linear import ready_linear

# More rows than these are left to a library's products and to what torch.compile fuses around them: rows are normed
# again for every tile of columns. An estimate (bench/model.py), not measured on a GPU: up to here a layer takes 0.75 to
# 0.85 of the time that it takes with products alone by the same kernel; were a library's bound by memory and launching
# alone, 0.9 to 1.2.
MOST_ROWS = 16


def fuses(x: Tensor) -> bool:
    """Whether linear layers of rows x (R, width) are one kernel each: few rows, in half precision, on a GPU."""
    return x.is_cuda and x.dtype in (torch.float16, torch.bfloat16) and len(x) <= MOST_ROWS


class StepLinear:
    """residual + gate * activation(norm(x) weight^T + bias), each part where it is wanted. No gradient.

    Args:
        weight: (out, in), contiguous.   bias: (out,) or None.
        rows: about how many go through at a time.
        second: (out, in): SwiGLU, silu(x weight^T) * (x second^T); None: no gate of this kind.
        norm: what x goes through first, with a factor (and with "layer" a shift) that calls give; None: nothing.
        gelu: whether the exact GELU follows.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        rows: int,
        *,
        second: Tensor | None = None,
        norm: Literal["layer", "rms"] | None = None,
        epsilon: float = 0.0,
        gelu: bool = False,
    ):
        parts = (weight, bias, second)
        self.weight, self.bias, self.second = (part if part is None else part.detach() for part in parts)
        self.norm, self.epsilon, self.gelu = norm, epsilon, gelu
        self.linear = ready_linear(weight, bias, rows)
        self.other = None if second is None else ready_linear(second, None, rows)

    def __call__(self, x: Tensor, **given: Tensor | None) -> Tensor:
        """x (R, in) -> (R, out) in x's dtype: `fused(x)` where `fuses(x)`, else `apart(x)`."""
        return self.fused(x, **given) if fuses(x) else self.apart(x, **given)

    def apart(
        self,
        x: Tensor,
        *,
        factor: Tensor | None = None,
        shift: Tensor | None = None,
        residual: Tensor | None = None,
        gate: Tensor | None = None,
        picked: Tensor | None = None,
    ) -> Tensor:
        """One operation after the other.

        factor: (in,), or as shift (U, in) and gate (U, out), of which row r has row picked[r], int64 (R,), or the r-th.
        residual: (R, out). Raises TypeError for a factor without norm, or a norm without it.
        """
        self._check(factor)
        if picked is not None:
            factor, shift, gate = (part if part is None else part[picked] for part in (factor, shift, gate))
        if factor is not None and self.norm == "rms":
            x = F.rms_norm(x, x.shape[1:], factor, self.epsilon)
        elif factor is not None:
            x = F.layer_norm(x, x.shape[1:], eps=self.epsilon)
            x = x * factor if shift is None else torch.addcmul(shift, x, factor)
        y = self.linear(x)
        if self.gelu:
            y = F.gelu(y)
        if self.other is not None:
            y = F.silu(y) * self.other(x)
        if residual is None:
            return y
        return residual + y if gate is None else torch.addcmul(residual, gate, y)

    def fused(self, x: Tensor, **given: Tensor | None) -> Tensor:
        """`apart` in one Triton kernel, which rounds normed rows and the result. Raises ImportError without Triton."""
        from ...kernels.linear import linear

        self._check(given.get("factor"))
        options = {"is_centered": self.norm == "layer", "epsilon": self.epsilon, "gelu": self.gelu}
        return linear(x, self.weight, self.bias, self.second, **options, **given)

    def _check(self, factor: Tensor | None) -> None:
        if (factor is None) != (self.norm is None):
            found = "none" if factor is None else "one"
            raise TypeError(
                f"factor: found {found} with norm {self.norm}, expected one where rows are normed, only there"
            )
