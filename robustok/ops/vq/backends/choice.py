"""Which backend runs an operation, and why not the others."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from ..checks import Shape
from . import cpp_backend as backend_cpp
from . import cuda_backend as backend_cuda
from . import triton_backend as backend_triton


def _nothing_missing(device: torch.device, shape: Shape | None) -> None:
    return None


@dataclass(frozen=True)
class Backend:
    """One implementation of all operations."""

    name: str
    forward: str  # module with nearest, neighbors, perturb, quantize
    backward: str  # module with perturb_backward, quantize_backward
    missing: Callable[[torch.device, Shape | None], str | None]  # why it cannot run that there, None: it can
    devices: tuple[str, ...] = ("cpu", "cuda")  # where "auto" takes it

    def load(self, backward: bool = False) -> ModuleType:
        return import_module(self.backward if backward else self.forward, __package__)


# In the order in which "auto" tries them.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("cpp", ".cpp_backend", "..gradients", backend_cpp.missing),
        Backend("triton", ".triton_backend", ".triton_backend", backend_triton.missing, devices=("cuda",)),
        # Never measured on a GPU, so only where it is asked for.
        Backend("cuda", ".cuda_backend", ".triton_backend", backend_cuda.missing, devices=()),
        Backend("torch", ".torch_backend", "..gradients", _nothing_missing),
        Backend("reference", "..reference", "..gradients", _nothing_missing),
    )
}


def reasons(device: torch.device, shape: Shape | None = None) -> dict[str, str | None]:
    """For every backend, why it cannot run on the device, for codebooks of the shape where given; None: it can."""
    return {name: backend.missing(device, shape) for name, backend in BACKENDS.items()}


def choose(name: str, device: torch.device, shape: Shape | None = None) -> Backend:
    """The backend of that name, or for "auto" the first that can run on the device, for codebooks of the shape.

    Raises ValueError for an unknown name, and for a named backend that cannot run, with the reason.
    """
    if name == "auto":
        able = (backend for backend in BACKENDS.values() if device.type in backend.devices)
        return next(backend for backend in able if backend.missing(device, shape) is None)
    if name not in BACKENDS:
        raise ValueError(f"backend: found {name!r}, expected one of {', '.join(['auto', *BACKENDS])}")
    reason = BACKENDS[name].missing(device, shape)
    if reason is not None:
        raise ValueError(f"backend: {name!r} cannot run here: {reason}; use backend='auto' to take the best that can")
    return BACKENDS[name]


def forward(name: str, codebook: Tensor, normalize: bool) -> ModuleType:
    """The module whose operations run for this codebook (K, D); errors as `choose`."""
    return choose(name, codebook.device, Shape(*codebook.shape, normalize)).load()


def explain(z: Tensor | torch.device | str, codebook: Tensor | None = None, *, normalize: bool = True) -> str:
    """Which backend "auto" takes for a tensor or on a device, and why not the ones before it. One line each.

    With the codebook (K, D), and whether rows are normalised, the answer is for its shape: not every backend takes all.
    """
    device = z.device if isinstance(z, Tensor) else torch.device(z)
    shape = None if codebook is None else Shape(*codebook.shape, normalize)
    chosen = choose("auto", device, shape).name
    lines = [f"{chosen}: taken for {device.type} tensors"]
    lines += [
        f"{name}: {reason or 'can run where it is asked for by name'}"
        for name, reason in reasons(device, shape).items()
        if name != chosen
    ]
    return "\n".join(lines)
