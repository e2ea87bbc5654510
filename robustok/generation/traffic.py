"""What sampling costs in memory."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory so far: what torch allocated on a GPU, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
