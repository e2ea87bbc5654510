"""The processes of one run: started by torchrun, or this one alone. Every function works for both."""

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import RunError
from .meeting import meet
from .peers import SILENCE, Peers

T = TypeVar("T")

# How long processes wait to find each other, and for what all compute together. Who is gone is noticed much sooner, and
# what one process does alone the others wait for in `barrier`, which has no such limit.
PATIENCE = timedelta(minutes=20)

_peers: Peers | None = None


def start(device: torch.device) -> None:
    """Joins the process group that torchrun's environment describes; does nothing for a single process.

    device: where this process computes, as `core.device.resolve_device` chose it and made it the current one.

    From here to `stop` the processes look after each other (core/peers.py). Raises RunError where they do not meet.
    """
    global _peers
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, name, rank, world = meet(PATIENCE)
        dist.init_process_group(
            backend, store=dist.PrefixStore(name, store), rank=rank, world_size=world, timeout=PATIENCE
        )
        _peers = Peers(lambda: _connect(name), rank, world)
    except dist.DistError as error:
        raise RunError(
            f"process {os.environ.get('RANK')} of {os.environ['WORLD_SIZE']} did not meet the others at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} ({str(error).splitlines()[0]}); start "
            "all of them with the same WORLD_SIZE, MASTER_ADDR and MASTER_PORT, each with a RANK of its own"
        ) from error


def stop() -> None:
    """Leaves the process group, if there is one. For work that is done: after a failure, `last_words` ends it."""
    global _peers
    if _peers is not None:
        _peers.leave()
        _peers = None
    if dist.is_initialized():
        dist.destroy_process_group()


def end(code: int) -> None:
    """Leaves the process group and ends this process, whose work is done; returns where there is no group.

    Python is not taken down, as it is not for a process of `multiprocessing`, which ends by the same steps. gloo's
    threads live as long as anything keeps the group (DistributedDataParallel, caches of DTensor), and one that gives a
    tensor back while Python goes down aborts the process, whose work then counts as failed.
    """
    if not dist.is_initialized():
        return
    stop()
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def last_words(code: int, error: BaseException) -> Iterator[None]:
    """In the body a process says why it fails. One of several ends all of them, with this exit code.

    The body is not entered where another process has failed before: one message is enough, and it is the first one.
    """
    if _peers is not None:
        _peers.claim_last_words(code, error)
    yield
    if _peers is not None:
        _peers.end_all(code)


def _connect(name: str) -> dist.Store:
    """A new connection to the store at which the processes met, for names of this start alone."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=SILENCE))
    return dist.PrefixStore(f"{name}/peers", store)


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
    """Waits until every process has come here, however long one of them works alone before."""
    if _peers is not None:
        _peers.barrier()
    elif world() > 1:  # a group that is not ours
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
    return flag if world() == 1 else bool(total(torch.tensor(float(flag), device=device)) > 0)


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
