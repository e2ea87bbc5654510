"""How long training will take, roughly: the arithmetic of the models over the rate at which this device multiplies.

It counts what the models alone need; networks of the losses, data and small operations come on top: `SHARE` allows
for them.
"""

from datetime import timedelta

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..training.schedules import step_counts
from ..training.utilisation import product_rate
from .outline import Outline
from .outlook import trainings

SHARE = 0.25  # of the device's rate of products that training reaches, more or less
SIDE = 1024  # of the matrices whose product is timed
TRAINING = 3  # a step is about three forward passes: one forward, two for the gradients


def described_duration(run: Outline, device: torch.device, processes: int) -> list[str]:
    """A line that says so, where something is trained."""
    found = seconds(run, device, processes)
    said = ", ".join(f"{stage} {timedelta(seconds=round(value))}" for stage, value in found.items())
    return [f"  time, give or take a factor of three: {said}"] if found else []


def seconds(run: Outline, device: torch.device, processes: int) -> dict[str, float]:
    """Of each stage that trains a tokenizer or a generator, on so many such devices."""
    forward = {"tokenizer": _of_tokenizer, "generator": _of_generator, "post": _of_tokenizer}
    rate = SHARE * _rate(device) * processes
    return {
        stage: TRAINING * forward[stage](run) * training.batch_size * step_counts(training, count)[1] / rate
        for stage, (training, count) in trainings(run).items()
        if stage in forward
    }


def _of_tokenizer(run: Outline) -> float:
    """FLOP of an image that is encoded and decoded."""
    size = run.tokenizer.image_size
    height, width = (size, size) if isinstance(size, int) else size
    with FlopCounterMode(display=False) as counter:
        run.tokenizer.decode(run.tokenizer.encode(torch.empty(1, 3, height, width, device="meta")))
    return counter.get_total_flops()


def _of_generator(run: Outline) -> float:
    """FLOP of a sequence: every parameter of a transformer multiplies each of its places once."""
    parameters = sum(parameter.numel() for parameter in run.generator.parameters())
    return 2 * parameters * run.tokenizer.num_latents


def _rate(device: torch.device) -> float:
    """FLOP/s of float32 products on a CPU, of bfloat16 ones on a GPU."""
    return product_rate(device, torch.bfloat16 if device.type == "cuda" else torch.float32, SIDE, 5)
