"""The backends there are, which of them runs an operation, and why not the others."""

import torch
from torch import Tensor

from ..checks import resolve_similarity
from ..types import CodebookShape, Similarity
from .cpp_backend import CppBackend
from .cuda_backend import CudaBackend
from .interface import VQBackend
from .reference_backend import ReferenceBackend
from .torch_backend import TorchBackend
from .triton_backend import TritonBackend

_ALL: tuple[VQBackend, ...] = (CppBackend(), TritonBackend(), CudaBackend(), TorchBackend(), ReferenceBackend())
BACKENDS = {backend.name: backend for backend in _ALL}  # in the order in which "auto" tries them


def reasons(device: torch.device, shape: CodebookShape | None = None) -> dict[str, str | None]:
    """For every backend, why it cannot run on the device, for codebooks of the shape where given; None: it can."""
    return {name: backend.missing(device, shape) for name, backend in BACKENDS.items()}


def choose(name: str, device: torch.device, shape: CodebookShape | None = None) -> VQBackend:
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


def choose_for(name: str, codebook: Tensor, similarity: Similarity) -> VQBackend:
    """`choose` for this codebook (K, D)."""
    return choose(name, codebook.device, CodebookShape.of(codebook, similarity))


def describe_backends(
    z: Tensor | torch.device | str,
    codebook: Tensor | None = None,
    *,
    normalize: bool = True,
    similarity: str | None = None,
) -> str:
    """Which backend "auto" takes for a tensor or on a device, and why not the ones before it. One line each.

    With the codebook (K, D), and how rows are compared, the answer is for its shape: not every backend takes all.
    """
    device = z.device if isinstance(z, Tensor) else torch.device(z)
    shape = None if codebook is None else CodebookShape.of(codebook, resolve_similarity(normalize, similarity))
    chosen = choose("auto", device, shape).name
    lines = [f"{chosen}: taken for {device.type} tensors"]
    lines += [
        f"{name}: {reason or 'can run where it is asked for by name'}"
        for name, reason in reasons(device, shape).items()
        if name != chosen
    ]
    return "\n".join(lines)
