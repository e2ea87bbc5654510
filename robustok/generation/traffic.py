"""What sampling costs: bytes of keys and values read, and memory."""

import resource
import sys

import torch


def cache_bytes(generator, streams: int) -> int:
    """Bytes of keys and values that attention reads for one image with `streams` streams (2 with guidance).

    Place p reads places 0..p of every layer: sum over the L + 1 places = (L + 1)(L + 2) / 2.
    """
    places = generator.num_tokens + 1
    width = generator.cls_token.shape[-1] * generator.cls_token.element_size()
    return streams * len(generator.blocks) * 2 * width * places * (places + 1) // 2


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory so far: what torch allocated on a GPU, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
