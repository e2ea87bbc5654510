"""Sampling beside the authors' loop and compiled peers, on a CPU and on a GPU."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from robustok.model_configs import LlamaGenConfig, RARConfig
from robustok.models.generators.autoregressive import Autoregressive
from robustok.models.generators.llamagen import LlamaGen
from robustok.models.generators.rar import RAR
from robustok.ops.decoding import decode_attention
from robustok.ops.decoding.reference import gumbel_noise

from . import recording
from .llamagen_peer import PublishedLoop
from .sampling_peers import CompiledStaticCache, GrowingCache, multinomial

GUIDANCE = (6.0, 1.15, 1.02)  # scale, power, temperature
SMALL = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 64, "codebook_size": 64, "num_classes": 8, "num_tokens": 12}
CPU_SHAPE = {"width": 256, "depth": 8, "heads": 4, "mlp_width": 1024}
PUBLISHED = {"codebook_size": 4096, "num_classes": 1000, "num_tokens": 256}
RAR_SHAPES = {
    "rar-b": {"width": 768, "depth": 24, "heads": 16, "mlp_width": 3072},
    "rar-l": {"width": 1024, "depth": 24, "heads": 16, "mlp_width": 4096},
}
LLAMAGEN_GUIDANCE = 2.0  # constant
LLAMAGEN_SMALL = SMALL | {"num_tokens": 9, "kv_heads": 1}
LLAMAGEN_CPU_SHAPE = {"width": 256, "depth": 8, "heads": 4, "mlp_width": 768}
LLAMAGEN_L = {"width": 1024, "depth": 24, "heads": 16, "mlp_width": 2816, "codebook_size": 16384}
GOALS = {"rar-b": (12.0, 430.0), "rar-l": (10.0, 310.0)}  # times the authors' speed at batch 50; images/s at our best


@pytest.fixture
def few_rounds(monkeypatch):
    """Calls that last seconds are repeated less."""
    monkeypatch.setattr(recording, "ROUNDS", {"cpu": 5, "cuda": 5})
    monkeypatch.setattr(recording, "WARM_UP_CALLS", 1)


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


def test_llamagen_on_gpu(record, needs_gpu, few_rounds):
    """LlamaGen-L, batch 50, against its published loop in the same precision."""
    goal = "sampling, LlamaGen-L"
    needs_gpu(goal)
    model = random_llamagen(PUBLISHED | LLAMAGEN_L, "cuda").bfloat16()
    sampler, published = model.sampler(guidance_scale=LLAMAGEN_GUIDANCE, compile=True), PublishedLoop(model)
    classes = torch.full((50,), 3, device="cuda")
    timings = recording.measure(
        {
            "ours": lambda: sampler.generate(classes, seed=0),
            "the published loop": lambda: published.generate(classes, LLAMAGEN_GUIDANCE, multinomial),
        },
        "cuda",
    )
    add_ratio(record, goal, "LlamaGen-L, batch 50", timings, "the published loop", 3.0)


def test_compiled_peer_draws_the_same_tokens():
    """What the GPU rows are measured against does the same work (uncompiled here: that takes a minute)."""
    model, classes, ids = random_model(SMALL), torch.tensor([1, 2, 2]), torch.arange(3)
    peer = CompiledStaticCache(model, compiler=lambda step: step)
    tokens = model.generate(classes, seed=0, **our_settings())
    assert torch.equal(tokens, peer.generate(classes, *GUIDANCE, partial(same_noise, ids)))


@pytest.mark.parametrize("name", RAR_SHAPES)
def test_sampling_on_gpu(name, record, needs_gpu, few_rounds):
    """Batch 50 against both peers, then our best batch; bfloat16 with float32 logits."""
    goal, (least, rate_wanted) = f"sampling, {name}", GOALS[name]
    needs_gpu(goal)
    model = random_model(RAR_SHAPES[name] | PUBLISHED, "cuda").bfloat16()
    plain = random_model(RAR_SHAPES[name] | PUBLISHED, "cuda")
    torch.backends.cuda.matmul.allow_tf32 = True  # as the authors run it
    authors, compiled = GrowingCache(plain), CompiledStaticCache(model, partial(torch.compile, mode="reduce-overhead"))
    classes = torch.full((50,), 3, device="cuda")
    sampler = model.sampler(**our_settings(), compile=True)
    timings = recording.measure(
        {
            "ours": lambda: sampler.generate(classes, seed=0),
            "the authors' loop": lambda: authors.generate(classes, *GUIDANCE, multinomial),
            "torch.compile + static cache": lambda: compiled.generate(classes, *GUIDANCE, multinomial),
        },
        "cuda",
    )
    add_ratio(record, goal, f"{name}, batch 50", timings, "the authors' loop", least)
    add_ratio(record, goal, f"{name}, batch 50", timings, "torch.compile + static cache", 1.7)
    best = max((gpu_rate(model, batch), batch) for batch in (128, 256, 512))
    read = model.cache_bytes(2) * best[0] / 1e12
    found = f"{best[0]:.0f} images/s at batch {best[1]}, caches read at {read:.2f} TB/s"
    record.add(goal, f"{name}, best batch", f">= {rate_wanted:.0f} images/s", found, best[0] >= rate_wanted)


def gpu_rate(model: RAR, batch: int) -> float:
    sampler = model.sampler(**our_settings(), compile=True)
    classes = torch.arange(batch, device="cuda") // 50
    return images_per_second(recording.measure({"ours": lambda: sampler.generate(classes, seed=0)}, "cuda"), batch)


@pytest.mark.parametrize("length", [129, 257])
@pytest.mark.parametrize("width", [48, 64])
def test_decode_attention_on_gpu(width, length, record, needs_gpu):
    """1,024 streams of 16 heads; against SDPA on the same static cache."""
    needs_gpu("decode attention")
    cache = torch.randn(2, 1024, 16, 257, width, device="cuda", dtype=torch.bfloat16)
    query = torch.randn(1024, 16, 1, width, device="cuda", dtype=torch.bfloat16)
    timings = recording.measure(
        {
            "ours": lambda: decode_attention(query, *cache, length),
            "SDPA": lambda: F.scaled_dot_product_attention(query, *cache[:, :, :, :length]),
        },
        "cuda",
    )
    seconds = sorted(timings["ours"])[len(timings["ours"]) // 2] / 1e3
    read = 2 * 1024 * 16 * length * width * 2 / seconds / 1e12
    add_ratio(record, "decode attention", f"width {width}, {length} places, {read:.2f} TB/s", timings, "SDPA", 1.5)


def test_latency_on_gpu(record, needs_gpu, few_rounds):
    """One image of RAR-B."""
    needs_gpu("latency of one image")
    model = random_model(RAR_SHAPES["rar-b"] | PUBLISHED, "cuda")
    half = random_model(RAR_SHAPES["rar-b"] | PUBLISHED, "cuda").bfloat16()
    sampler, authors = half.sampler(**our_settings(), compile=True), GrowingCache(model)
    classes = torch.full((1,), 3, device="cuda")
    timings = recording.measure(
        {
            "ours": lambda: sampler.generate(classes, seed=0),
            "the authors' loop": lambda: authors.generate(classes, *GUIDANCE, multinomial),
        },
        "cuda",
    )
    add_ratio(record, "latency of one image", "rar-b, batch 1", timings, "the authors' loop", 20.0)


def test_pairs_on_gpu(record, needs_gpu, few_rounds):
    """Sequences with 70 % of the tokens kept, against our plain sampler."""
    needs_gpu("sampling with kept tokens")
    model = random_model(RAR_SHAPES["rar-l"] | PUBLISHED, "cuda").bfloat16()
    classes = torch.arange(256, device="cuda") // 50
    kept = torch.randint(0, 4096, (256, 256), device="cuda")
    sampler = model.sampler(**our_settings(), compile=True)
    timings = recording.measure(
        {
            "ours": lambda: sampler.generate(classes, seed=0, keep_tokens=kept, keep_ratio=0.7),
            "our plain sampler": lambda: sampler.generate(classes, seed=0),
        },
        "cuda",
    )
    add_ratio(record, "sampling with kept tokens", "rar-l, batch 256, sigma 0.7", timings, "our plain sampler", 2.0)
