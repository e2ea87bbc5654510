"""The processes of one run: started by torchrun, or this one alone. Every function works for both."""

import os
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def start(device: torch.device) -> None:
    """Joins the process group that torchrun's environment describes; does nothing for a single process.

    device: where this process computes, as `core.device.resolve_device` chose it and made it the current one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))


def stop() -> None:
    """Leaves the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, 0 for the main one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True for the one process that writes files and shows progress."""
    return rank() == 0


def barrier() -> None:
    """Waits until every process has come here."""
    if world() > 1:
        dist.barrier()


def mean(value: Tensor) -> Tensor:
    """Average of `value` over the processes, without gradient."""
    if world() == 1:
        return value.detach()
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / world()


def total(value: Tensor) -> Tensor:
    """Sum of `value` over the processes, without gradient."""
    if world() == 1:
        return value.detach()
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def from_main(value: Tensor) -> Tensor:
    """The main process's `value` on all of them, without gradient."""
    if world() == 1:
        return value.detach()
    value = value.detach().clone()
    dist.broadcast(value, 0)
    return value


def gathered(value: T) -> list[T]:
    """The `value` of every process, in the order of their ranks: small objects, or tensors on the CPU."""
    values: list[Any] = [value]
    if world() > 1:
        values *= world()
        dist.all_gather_object(values, value)
    return values


def any_process(flag: bool, device: torch.device) -> bool:
    """True on every process as soon as it is true on one (a Ctrl-C reaches them at different moments)."""
    return bool(total(torch.tensor(float(flag), device=device)) > 0)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        parts = [torch.empty_like(value) for _ in range(world())]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad.chunk(world())[rank()]


def gather(value: Tensor) -> Tensor:
    """(B, ...) of each process -> (B * world, ...) in rank order on all; gradients flow back to their owner.

    Each process computes the same loss of the gathered batch, and gradients are averaged over processes afterwards:
    the sum in backward and that average give the gradient of one process with the whole batch.
    """
    return value if world() == 1 else _Gather.apply(value)
