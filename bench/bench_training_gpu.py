"""Steps of training at the published sizes on a GPU, in bfloat16, beside the published computation.

A share is of the measured rate of a product, and counts the products, convolutions and attention of a step of ours.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from robustok.config import OrderConfig
from robustok.model_configs import RARConfig, TokenizerConfig
from robustok.models.compiling import compile_blocks
from robustok.models.discriminator import diff_augment
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer

from . import recording
from .bench_training import (
    FEW_CODES,
    LOSSES,
    RAR_TINY,
    TINY,
    WITHOUT_DROPOUT,
    open_run,
    rar_training,
    tokenizer_training,
    training,
)
from .training_peers import NetworkStep, RARStep, TokenizerStep, plainly_quantized

__all__ = ["open_run"]  # the fixture
PUBLISHED = TokenizerConfig(
    image_size=256, patch_size=16, width=768, depth=12, heads=12, codebook_size=4096, code_width=64, drop_path=0.1
)
RARS = {
    "rar-b": RARConfig(768, 24, 16, 3072, codebook_size=4096, num_classes=1000, num_tokens=256, **WITHOUT_DROPOUT),
    "rar-l": RARConfig(1024, 24, 16, 4096, codebook_size=4096, num_classes=1000, num_tokens=256, **WITHOUT_DROPOUT),
}
MIXED = replace(FEW_CODES, beta=0.1, delta=100)
FEW = replace(FEW_CODES, beta=0.1, delta=10)  # of the small codebook of untimed rows


@pytest.fixture
def few_rounds(monkeypatch):
    """30 steps of each after 10 that warm up."""
    monkeypatch.setattr(recording, "ROUNDS", {"cpu": 9, "cuda": 30})
    monkeypatch.setattr(recording, "WARM_UP_CALLS", 10)


def flops_of(step: Callable[[], object]) -> int:
    """Of a step that is not compiled."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def add_share(record, goal: str, what: str, least: float, flops: int, timings: dict, device: str, images: int) -> None:
    """The share of the product rate that our step reaches, and the images/s."""
    seconds = recording.median(timings["ours"]) / 1e3
    share = flops / seconds / recording.product_rate(device)
    unit = f"of the rate of a product, {images / seconds:.0f} images/s"
    record.add_at_least(goal, what, least, share, unit, flops=flops)


def ours_quantized(model, images: torch.Tensor) -> tuple:
    """Our training forward: quantised and perturbed in one pass."""
    out = model(images)
    return out.images, out.vq_loss, out.commit_loss


def test_networks_of_the_tokenizer(timed, record, gpu, few_rounds):
    """Encoder and decoder, forward and backward, without the other losses."""
    goal = "training step of a tokenizer, its networks"
    device, size = gpu(goal), 128 if timed else 4
    config = PUBLISHED if timed else TINY
    torch.manual_seed(0)
    eager = ViTTokenizer(config).to(device)
    ours, compiled = copy.deepcopy(eager), copy.deepcopy(eager)
    compile_blocks(ours)
    images = torch.rand(size, 3, config.image_size, config.image_size, device=device) * 2 - 1
    autocast = partial(torch.autocast, device, torch.bfloat16, enabled=device == "cuda")
    whole = torch.compile(plainly_quantized, dynamic=False)
    steps = {
        "ours": NetworkStep(ours, training(size), autocast, ours_quantized),
        "eager": NetworkStep(eager, training(size), autocast, plainly_quantized),
        "torch.compile": NetworkStep(compiled, training(size), autocast, whole),
    }
    flops = flops_of(lambda: NetworkStep(copy.deepcopy(eager), training(size), autocast, ours_quantized)(images))
    runs = {name: partial(step, images) for name, step in steps.items()}
    runs |= record.able(goal, {"torch.compile": runs.pop("torch.compile")})
    timings = recording.measure(runs, device)
    what = f"ViT-B 256 px, batch {size}"
    record.add_ratio(goal, f"{what}, against eager", 2.0, timings, "eager", "ours")
    record.add_ratio(goal, f"{what}, against torch.compile", 1.2, timings, "torch.compile", "ours")
    add_share(record, goal, what, 0.45, flops, timings, device, size)


def test_tokenizer_step(timed, record, gpu, few_rounds, open_run):
    """All losses: ViT-B, LPIPS, DINOv2-B and DINO-S; ours compiled."""
    goal = "training step of a tokenizer, all losses"
    device, size = gpu(goal), 64 if timed else 4
    config, perturbation = (PUBLISHED, MIXED) if timed else (TINY, FEW)
    settings = {"device": device, "losses": LOSSES, "tokenizer_training": training(size), "perturbation": perturbation}
    fit, batch = tokenizer_training(open_run(compile=True, **settings), config, size, published=timed)
    other, _ = tokenizer_training(open_run(name="eager", **settings), config, size, published=timed)
    plain = TokenizerStep(other.stage, perturbation, LOSSES, lambda images, use: diff_augment(images))
    flops = flops_of(lambda: other._take_step(batch))
    timings = recording.measure({"plain": lambda: plain(batch.inputs), "ours": lambda: fit._take_step(batch)}, device)
    what = f"ViT-B 256 px, 4096 codes, all losses, batch {size}"
    record.add_ratio(goal, f"{what}, against plain eager", 2.0, timings, "plain", "ours")
    add_share(record, goal, what, 0.38, flops, timings, device, size)


@pytest.mark.parametrize("name", RARS)
def test_rar_step(name, timed, record, gpu, few_rounds, open_run, tmp_path):
    """In random orders; ours compiled by blocks, against eager and against a network compiled as a whole."""
    goal = "training step of RAR"
    device, size = gpu(goal), 64 if timed else 4  # four models with optimisers, of 9 GB each, and a step's activations
    config = RARS[name] if timed else RAR_TINY
    settings = {"order": OrderConfig(anneal_start=200.0, anneal_end=200.0), "generator_training": training(size)}
    fit, batch = rar_training(open_run(device=device, compile=True, **settings), config, size, tmp_path / "tokens")
    run = open_run(name="eager", device=device, **settings)
    eager, _ = rar_training(run, config, size, tmp_path / "more")
    peers = {"plain": RARStep(eager.stage, 1.0), "torch.compile + is_causal": RARStep(eager.stage, 1.0, compile=True)}
    flops = flops_of(lambda: eager._take_step(batch))
    runs = {peer: partial(step, batch.inputs, batch.labels) for peer, step in peers.items()}
    timings = recording.measure({"ours": lambda: fit._take_step(batch)} | record.able(goal, runs), device)
    what = f"{name}, batch {size}"
    record.add_ratio(goal, f"{what}, against plain eager", 1.8, timings, "plain", "ours")
    record.add_ratio(goal, f"{what}, against torch.compile", 1.0, timings, "torch.compile + is_causal", "ours")
    add_share(record, goal, what, 0.45, flops, timings, device, size)
