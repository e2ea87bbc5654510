"""The definition as a backend, to be asked for by name or where nothing faster can run."""

import torch

from .. import gradients, reference
from ..types import CodebookShape


class ReferenceBackend:
    name = "reference"
    devices: tuple[str, ...] = ("cpu", "cuda")
    nearest = staticmethod(reference.nearest)
    neighbors = staticmethod(reference.neighbors)
    perturb = staticmethod(reference.perturb)
    quantize = staticmethod(reference.quantize)
    perturb_backward = staticmethod(gradients.perturb_backward)
    quantize_backward = staticmethod(gradients.quantize_backward)

    def missing(self, device: torch.device, shape: CodebookShape | None = None) -> str | None:
        return None
