"""How long training will take, roughly: the arithmetic of the models over the rate at which this device multiplies.

It counts what the models alone need; networks of the losses, data and small operations come on top: `SHARE` allows
for them.
"""

from collections.abc import Callable
from datetime import timedelta

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..core.sizes import sides
from ..models.interfaces import makes_latents
from ..models.registry import family_of
from ..training.schedules import step_counts
from ..training.utilisation import peak_of, product_rate
from .outline import Outline
from .outlook import trainings

# Of the device's rate of products that training reaches, more or less. In the demo on one thread of a CPU (1300 images,
# 145 GFLOP/s): main training 0.38, with its adversary 0.25; RAR 0.34; post-training 0.22.
SHARE = 0.3
SIDE = 1024  # of the matrices whose product is timed on a CPU
TRAINING = 3  # a step is about three forward passes: one forward, two for the gradients


def described_duration(run: Outline, device: torch.device, processes: int) -> list[str]:
    """A line that says so, where something is trained."""
    found = seconds(run, device, processes)
    said = ", ".join(f"{stage} {timedelta(seconds=round(value))}" for stage, value in found.items())
    return [f"  time, give or take a factor of three: {said}"] if found else []


def seconds(run: Outline, device: torch.device, processes: int) -> dict[str, float]:
    """Of each stage that trains a tokenizer or a generator, on so many such devices; post-training once a mode."""
    forward = {"tokenizer": _of_tokenizer, "generator": _of_generator, "post": _of_decoder}
    rate, found = SHARE * _rate(device) * processes, {}
    for stage, (training, count) in trainings(run).items():
        if stage in forward:
            images = training.batch_size * step_counts(training, count)[1]
            images *= len(run.config.pairs.modes) if stage == "post" else 1
            found[stage] = TRAINING * forward[stage](run) * images / rate
    return found


def _of_tokenizer(run: Outline) -> float:
    """FLOP of an image that is encoded and decoded."""
    return _counted(lambda: run.tokenizer.decode(run.tokenizer.encode(_image(run))))


def _of_decoder(run: Outline) -> float:
    """FLOP of an image that is decoded, which post-training alone does."""
    z = run.tokenizer.encode(_image(run))
    return _counted(lambda: run.tokenizer.decode(z))


def _of_generator(run: Outline) -> float:
    """FLOP of the loss of an image's tokens or latents."""
    generator, one = run.generator, torch.zeros(1, dtype=torch.int64, device="meta")
    if makes_latents(generator):
        rows = torch.empty(1, *generator.latent_shape, device="meta")
    else:
        rows = one.expand(1, generator.num_tokens)
    settings = family_of(generator).schedule(run.config, 0.0)
    return _counted(lambda: generator.loss(rows, one, seed=0, sample_ids=one, **settings))


def _image(run: Outline) -> Tensor:
    """An image without values."""
    return torch.empty(1, 3, *sides(run.tokenizer.image_size), device="meta")


def _counted(forward: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        forward()
    return counter.get_total_flops()


def _rate(device: torch.device) -> float:
    """FLOP/s of float32 products on a CPU, of bfloat16 ones on a GPU, which needs larger ones than a CPU to be busy."""
    return peak_of(device, torch.bfloat16) or product_rate(device, torch.float32, SIDE, 5)
