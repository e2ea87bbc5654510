"""The one way in which kernels are launched: on the GPU of their tensors, where Triton takes the current one."""

from contextlib import nullcontext
from typing import Any

import torch


def launch(kernel, grid: tuple[int, ...], **arguments: Any) -> None:
    """Launches a Triton kernel, whose arguments and options are given by name, on the GPU of its first tensor."""
    if torch.compiler.is_compiling():  # the code that it writes goes to the right GPU by itself
        on_its_device = nullcontext()
    else:
        first = next(x for x in arguments.values() if isinstance(x, torch.Tensor))
        on_its_device = torch.cuda.device(first.get_device())  # -1 for one that is on none: nothing changes
    with on_its_device:
        kernel[grid](**arguments)
