"""Which device a command computes on, and how much memory it took."""

import os
import re
import resource
import sys
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from .errors import UserError

# What people call a device that is none here, and what to do.
OTHER_NAMES = {
    "gpu": "a GPU is called cuda",
    "hip": "AMD GPUs are called cuda by a ROCm build of torch, which is untested here",
    "rocm": "AMD GPUs are called cuda by a ROCm build of torch, which is untested here",
    "mps": "Apple's GPUs (MPS) are not supported: noise and statistics need float64, which they lack; use cpu",
    "xpu": "Intel's GPUs (XPU) are untested, and no kernel is built for them; use cpu",
}


def check_device_name(name: str) -> None:
    """Raises UserError for what is no name of a device, whether this machine has such a one or not."""
    if re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", name):
        return
    why = OTHER_NAMES.get(name.lower().partition(":")[0])
    raise UserError(
        f"device: found {name!r}, expected auto, cpu, cuda or cuda:N (the GPU of number N, from 0)"
        + (f"; {why}" if why else "")
    )


def untested_devices() -> list[str]:
    """What torch can compute on here that this package was never tested on, a sentence each."""
    found = []
    if torch.version.hip:
        found.append("this torch is built for ROCm: AMD GPUs are called cuda, untested; Triton's kernels may run there")
    if torch.backends.mps.is_available():
        found.append(OTHER_NAMES["mps"])
    if torch.xpu.is_available():
        found.append(OTHER_NAMES["xpu"])
    return found


def resolve_device(name: str = "auto") -> torch.device:
    """The device that a setting or option names, made the current one so that kernels are launched on it.

    Args:
        name: "cpu", "cuda:N", "cuda" (the GPU of this process: that of its LOCAL_RANK under torchrun, else the first),
            or "auto" (as "cuda" where there is a GPU, else "cpu").

    Raises UserError for another name, and for a GPU that is not there.
    """
    check_device_name(name)
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(name[5:] if name.startswith("cuda:") else os.environ.get("LOCAL_RANK", "0"))
    if index >= count:
        there = ", ".join(f"cuda:{i}" for i in range(count)) or "no usable GPU"
        raise UserError(
            f"device: found {name!r}, which is cuda:{index} for this process, but torch sees {there};"
            " use --device cpu or auto (python -m robustok.doctor says what this machine can do)"
        )
    device = torch.device("cuda", index)
    # Streams, events and other libraries' kernels go to the current device
    torch.cuda.set_device(device)
    return device


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held so far, in bytes: by torch on a GPU, or by this whole process for the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class HostCopies:
    """Tensors on their way to the host, in the order in which they are added."""

    def __init__(self) -> None:
        self._waits: list[Callable[[], Tensor]] = []

    def add(self, tensor: Tensor) -> list[Tensor]:
        """Those that were on their way, and this one if it is on the host already. A GPU goes on with it meanwhile."""
        self._waits.append(copied_to_host(tensor))
        return self._arrived(len(self._waits) - int(tensor.is_cuda))

    def rest(self) -> list[Tensor]:
        """All that are still on their way."""
        return self._arrived(len(self._waits))

    def _arrived(self, count: int) -> list[Tensor]:
        arrived, self._waits = self._waits[:count], self._waits[count:]
        return [wait() for wait in arrived]


def on_the_host(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors in order, on the host. A GPU makes the next one while one is copied."""
    copies = HostCopies()
    for tensor in tensors:
        yield from copies.add(tensor)
    yield from copies.rest()


def copied_to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Begins a copy to the host's memory, and gives what waits for that copy alone and returns it.

    A GPU copies while it computes what it is asked for next. What is on the host already is not copied.
    """
    if not tensor.is_cuda:
        return tensor.cpu
    copy = torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        done.synchronize()
        return copy

    return wait
