"""The memory that training takes at the least, held against the device's before anything is trained."""

from __future__ import annotations

import os

import torch

from ..core.device import resolve_device
from ..core.errors import UserError
from .outline import Outline
from .space import size_in_words

STATES = 5  # a weight, its gradient, AdamW's two moments, and the average
FLOAT = 4  # bytes


def least_bytes(run: Outline) -> dict[str, int]:
    """Bytes of weights, gradients, optimiser and averages of the model that each stage trains; activations, which
    depend on how a device computes, come on top.
    """
    trained = {"tokenizer": lambda: run.trained_tokenizer, "generator": lambda: run.generator}
    trained["post"] = lambda: run.tokenizer
    models = {stage: model() for stage, model in trained.items() if stage in run.stages}
    return {stage: STATES * FLOAT * sum(p.numel() for p in model.parameters()) for stage, model in models.items()}


def device_bytes(device: torch.device) -> int:
    """The memory of a GPU, or of this machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(run: Outline, world: int) -> str:
    """What training takes at the least and the device has, in a sentence. Raises UserError where it is too small.

    world: processes, each of which holds an equal part of a generator where `parallel` shards it.
    """
    needed, there = least_bytes(run), device_bytes(device := resolve_device(run.config.device))
    if not needed:
        return "memory: no stage trains more than the classifier"
    if run.config.parallel == "fsdp" and "generator" in needed:
        needed["generator"] //= world
    stage = max(needed, key=needed.__getitem__)
    said = (
        f"memory: {stage} takes {size_in_words(needed[stage])} for weights, gradients and optimiser, and its "
        f"activations beside them; {device} has {size_in_words(there)}"
    )
    if needed[stage] > there:
        shard = ", or shard it over several devices (torchrun, --parallel fsdp)" if stage == "generator" else ""
        raise UserError(f"{said}; make the model smaller{shard}")
    return said
