"""The operators under transforms of torch.func and forward-mode differentiation, which know plain PyTorch alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def are_active() -> bool:
    """Whether a transform (grad, vmap, jvp, ...) or a level of forward-mode differentiation is around this call.

    The tokens come from the same operator then, without gradient, and what is differentiable of the result is written
    in plain PyTorch (`reference`).
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def register_loop(operator: torch.library.CustomOpDef) -> None:
    """Under vmap the operator runs once a slice."""

    def batched(info, in_dims, *arguments):
        def of_slice(i: int):
            picked = zip(arguments, in_dims, strict=True)
            return operator(*(a if dim is None else a.select(dim, i) for a, dim in picked))

        results = [of_slice(i) for i in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])

    operator.register_vmap(batched)


def refuse_second_derivative(operator: torch.library.CustomOpDef) -> None:
    """Differentiating a backward operator ends in one sentence."""

    def backward(ctx, *_):
        raise NotImplementedError(
            "vq_perturb and vq_quantize: second derivatives are not defined for backward(); use torch.func "
            "(torch.func.hessian, or grad inside grad), which writes the operation in plain PyTorch"
        )

    operator.register_autograd(backward)
