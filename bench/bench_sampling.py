"""Sampling beside the authors' loops, on a CPU; LlamaGen on a GPU."""

from functools import partial

import torch

from robustok.model_configs import LlamaGenConfig, RARConfig
from robustok.models.generators.autoregressive import Autoregressive
from robustok.models.generators.llamagen import LlamaGen
from robustok.models.generators.rar import RAR
from robustok.ops.decoding.reference import gumbel_noise

from . import recording
from .llamagen_peer import PublishedLoop
from .sampling_peers import CompiledStaticCache, GrowingCache, multinomial

GUIDANCE = (6.0, 1.15, 1.02)  # scale, power, temperature
SMALL = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 64, "codebook_size": 64, "num_classes": 8, "num_tokens": 12}
CPU_SHAPE = {"width": 256, "depth": 8, "heads": 4, "mlp_width": 1024}
PUBLISHED = {"codebook_size": 4096, "num_classes": 1000, "num_tokens": 256}
LLAMAGEN_GUIDANCE = 2.0  # constant
LLAMAGEN_SMALL = SMALL | {"num_tokens": 9, "kv_heads": 1}
LLAMAGEN_CPU_SHAPE = {"width": 256, "depth": 8, "heads": 4, "mlp_width": 768}
LLAMAGEN_L = {"width": 1024, "depth": 24, "heads": 16, "mlp_width": 2816, "codebook_size": 16384}


def random_model(shape: dict, device: str = "cpu") -> RAR:
    with torch.device(device):
        return with_random_weights(RAR(RARConfig(**shape)), device)


def random_llamagen(shape: dict, device: str = "cpu") -> LlamaGen:
    with torch.device(device):
        return with_random_weights(LlamaGen(LlamaGenConfig(**shape)), device)


def with_random_weights(model: Autoregressive, device: str) -> Autoregressive:
    generator = torch.Generator(device).manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    return model.eval()


def our_settings() -> dict:
    return dict(zip(("guidance_scale", "guidance_power", "temperature"), GUIDANCE, strict=True))


def same_noise(ids: torch.Tensor, logits: torch.Tensor, step: int) -> torch.Tensor:
    return (logits.log_softmax(-1) + gumbel_noise(0, ids, step, logits.shape[1])).argmax(-1)


def add_ratio(record, goal: str, what: str, timings: dict, peer: str, least: float, **details) -> None:
    record.add_ratio(goal, f"{what}, against {peer}", least, timings, peer, "ours", **details)


def images_per_second(timings: dict, count: int) -> float:
    return count * 1e3 / sorted(timings["ours"])[len(timings["ours"]) // 2]


def test_sampling_on_cpu(timed, record, few_rounds):
    """The goal: at least 3x the images/s of the authors' loop, the same tokens where both use the same noise."""
    model = random_model(CPU_SHAPE | PUBLISHED if timed else SMALL)
    classes, ids = torch.full((16,), 3), torch.arange(16)  # one class: large samples are sorted by class
    sampler, authors = model.sampler(**our_settings()), GrowingCache(model)
    tokens = sampler.generate(classes, seed=0)
    assert torch.equal(tokens, authors.generate(classes, *GUIDANCE, partial(same_noise, ids)))
    if timed:
        variants = {
            "ours": lambda: sampler.generate(classes, seed=0),
            "the authors' loop": lambda: authors.generate(classes, *GUIDANCE, multinomial),
        }
        timings = recording.measure(variants)
        rate = images_per_second(timings, 16)
        what = f"RAR 256 x 8 x 4, 256 tokens, CFG, batch 16, {torch.get_num_threads()} threads"
        add_ratio(record, "sampling", what, timings, "the authors' loop", 3.0, images_per_second=rate)


def test_llamagen_on_cpu(timed, record, few_rounds):
    """The goal: at least 3x the images/s of the published loop, the same tokens where both use the same noise."""
    model = random_llamagen(LLAMAGEN_CPU_SHAPE | PUBLISHED if timed else LLAMAGEN_SMALL)
    classes, ids = torch.full((16,), 3), torch.arange(16)
    sampler, published = model.sampler(guidance_scale=LLAMAGEN_GUIDANCE), PublishedLoop(model)
    tokens = sampler.generate(classes, seed=0)
    assert torch.equal(tokens, published.generate(classes, LLAMAGEN_GUIDANCE, partial(same_noise, ids)))
    if timed:
        variants = {
            "ours": lambda: sampler.generate(classes, seed=0),
            "the published loop": lambda: published.generate(classes, LLAMAGEN_GUIDANCE, multinomial),
        }
        timings = recording.measure(variants)
        rate = images_per_second(timings, 16)
        what = f"LlamaGen 256 x 8 x 4, 256 tokens, CFG, batch 16, {torch.get_num_threads()} threads"
        add_ratio(record, "sampling, LlamaGen", what, timings, "the published loop", 3.0, images_per_second=rate)


def test_llamagen_on_gpu(timed, record, gpu, few_rounds):
    """LlamaGen-L, batch 50, against its published loop in the same precision."""
    goal = "sampling, LlamaGen-L"
    device = gpu(goal)
    shape, count = (PUBLISHED | LLAMAGEN_L, 50) if timed else (LLAMAGEN_SMALL, 2)
    model = random_llamagen(shape, device).bfloat16()
    sampler, published = model.sampler(guidance_scale=LLAMAGEN_GUIDANCE, compile=True), PublishedLoop(model)
    classes = torch.full((count,), 3, device=device)
    timings = recording.measure(
        {
            "ours": lambda: sampler.generate(classes, seed=0),
            "the published loop": lambda: published.generate(classes, LLAMAGEN_GUIDANCE, multinomial),
        },
        device,
    )
    add_ratio(record, goal, f"LlamaGen-L, batch {count}", timings, "the published loop", 3.0)


def test_compiled_peer_draws_the_same_tokens():
    """What the GPU rows are measured against does the same work (uncompiled here: that takes a minute)."""
    model, classes, ids = random_model(SMALL), torch.tensor([1, 2, 2]), torch.arange(3)
    peer = CompiledStaticCache(model, compiler=lambda step: step)
    tokens = model.generate(classes, seed=0, **our_settings())
    assert torch.equal(tokens, peer.generate(classes, *GUIDANCE, partial(same_noise, ids)))
