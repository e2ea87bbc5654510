"""Sampling of the published RAR models on a GPU, beside the authors' loop and a compiled peer.

Ours and the compiled peer compute in bfloat16 with float32 logits, the authors' loop in float32 with TF32, as they run
it. Batches are of one class, as large samples are that are sorted by class.
"""

import gc
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from robustok.models.generators.rar import RAR
from robustok.models.generators.rar_decoding import step_linears
from robustok.ops.decoding import StepLinear, decode_attention
from robustok.ops.decoding.attention import flash_attention
from robustok.ops.decoding.step_linear import MOST_ROWS

from . import recording
from .bench_sampling import GUIDANCE, PUBLISHED, SMALL, add_ratio, images_per_second, our_settings, random_model
from .sampling_peers import CompiledStaticCache, GrowingCache, forced, multinomial

RAR_SHAPES = {
    "rar-l": {"width": 1024, "depth": 24, "heads": 16, "mlp_width": 4096},
    "rar-b": {"width": 768, "depth": 24, "heads": 16, "mlp_width": 3072},
}
GOALS = {"rar-b": (12.0, 430.0), "rar-l": (10.0, 310.0)}  # our best batch: times the authors' speed at 50; images/s
SIGMA = 0.7  # share of the tokens that are kept


def networks(name: str, device: str, timed: bool) -> tuple[RAR, RAR]:
    """The model in bfloat16 and in float32, with random weights; a small one where nothing is timed."""
    shape = RAR_SHAPES[name] | PUBLISHED if timed else SMALL
    return random_model(shape, device).bfloat16(), random_model(shape, device)


def one_class(count: int, device: str) -> torch.Tensor:
    return torch.full((count,), 3, device=device)


def authors_call(authors: GrowingCache, classes: torch.Tensor, draw=multinomial):
    """The authors' loop with TF32 on, and off again when it is done."""

    def run() -> torch.Tensor:
        with recording.tf32():
            return authors.generate(classes, *GUIDANCE, draw)

    return run


def beside_peers(record, goal: str, model: RAR, plain: RAR, classes: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Our sampler, the authors' loop, and the compiled peer where it can run."""
    sampler = model.sampler(**our_settings(), compile=True)
    compiled = CompiledStaticCache(model, partial(torch.compile, mode="reduce-overhead", dynamic=False))
    peer = {"torch.compile + static cache": lambda: compiled.generate(classes, *GUIDANCE, multinomial)}
    ours = {"ours": lambda: sampler.generate(classes, seed=0)}
    return ours | {"the authors' loop": authors_call(GrowingCache(plain), classes)} | record.able(goal, peer)


def our_rate(model: RAR, batch: int, device: str) -> float:
    """Images/s of our sampler."""
    gc.collect()  # the one before holds caches of up to 26 GB, and its captured graphs hold it
    sampler, classes = model.sampler(**our_settings(), compile=True), one_class(batch, device)
    timings = recording.measure({"ours": lambda: sampler.generate(classes, seed=0)}, device)
    return images_per_second(timings, batch)


def authors_rate(model: RAR, batch: int, device: str) -> float:
    """Images/s of the authors' loop, in its second call."""
    gc.collect()
    call = authors_call(GrowingCache(model), one_class(batch, device))
    call()
    return batch / recording.seconds(call)


@pytest.mark.parametrize("name", RAR_SHAPES)
def test_sampling(name, timed, record, gpu, few_rounds):
    """Our best batch first, then the peers at 50, and the authors at theirs."""
    goal, (least, wanted) = f"sampling, {name}", GOALS[name]
    device = gpu(goal)
    model, plain = networks(name, device, timed)
    rates = {}
    for batch in (512, 256) if timed else (3, 2):
        rates[batch] = our_rate(model, batch, device)
        what = f"{name}, batch {batch}"
        record.add_at_least(goal, what, wanted, rates[batch], "images/s")
        share = model.cache_bytes(2) * rates[batch] / recording.copy_rate(device)
        record.add(goal, f"{what}, caches read at", "for comparison", f"{share:.2f} of the copy rate", None)
    best = max(rates.values())
    count = 50 if timed else 2
    timings = recording.measure(beside_peers(record, goal, model, plain, one_class(count, device)), device)
    milliseconds = {key: recording.median(times) for key, times in timings.items()}
    what = f"{name}, batch {count}"
    add_ratio(record, goal, what, timings, "the authors' loop", 8.0)
    add_ratio(record, goal, what, timings, "torch.compile + static cache", 1.7)
    theirs = count * 1e3 / milliseconds["the authors' loop"]
    record.add_at_least(goal, f"{name}, our best batch against the authors' at {count}", least, best / theirs, "x")
    largest = max([theirs, *(authors_rate(plain, batch, device) for batch in ((128, 256) if timed else (3,)))])
    record.add_at_least(goal, f"{name}, our best batch against the authors' best", 5, best / largest, "x")


@pytest.mark.parametrize("length", [129, 257])
@pytest.mark.parametrize("width", [64, 48])
def test_decode_attention(width, length, timed, record, gpu):
    """1,024 streams of 16 heads; against SDPA on the same static cache, and flash-attn."""
    goal = "decode attention"
    device, streams = gpu(goal), 1024 if timed else 2
    cache = torch.randn(2, streams, 16, 257, width, device=device, dtype=torch.bfloat16)
    query = torch.randn(streams, 16, 1, width, device=device, dtype=torch.bfloat16)
    runs = {
        "ours": lambda: decode_attention(query, *cache, length),
        "SDPA": lambda: F.scaled_dot_product_attention(query, *cache[:, :, :, :length]),
        "flash-attn": lambda: flash_attention(query, *cache, length),
    }
    expected = runs["SDPA"]().float()
    torch.testing.assert_close(runs["ours"]().float(), expected, rtol=0.02, atol=0.02)
    try:
        runs["flash-attn"]()
    except (ImportError, RuntimeError):
        del runs["flash-attn"]
    timings, what = recording.measure(runs, device), f"width {width}, {length} places"
    add_ratio(record, goal, what, timings, "SDPA", 1.5)
    add_ratio(record, goal, what, timings, "flash-attn", 1.0)
    milliseconds = recording.replayed_milliseconds(runs["ours"], device)
    share = cache[:, :, :, :length].numel() * 2 / (milliseconds / 1e3) / recording.copy_rate(device)
    record.add_at_least(goal, f"{what}, in a replayed graph", 0.88, share, "of the copy rate")


@pytest.mark.parametrize("rows", [2, 16, 64, 512])
def test_linear_layers(rows, timed, record, gpu):
    """Those of one layer of RAR-L with norms, GELU and residuals: a kernel each, against torch's products and what
    torch.compile makes of the rest. A step takes the first up to MOST_ROWS rows."""
    goal = "linear layers of a decoding step"
    device, width = gpu(goal), 1024 if timed else 32
    model, _ = networks("rar-l", device, timed)
    qkv, proj, fc1, fc2 = step_linears(model.blocks[0], rows)
    x, table = (torch.randn(n, width, device=device, dtype=torch.bfloat16) for n in (rows, 8))
    modulation = {"factor": table, "shift": table, "picked": torch.zeros(rows, dtype=torch.int64, device=device)}
    out = {"gate": table, "picked": modulation["picked"]}

    def layer(call) -> torch.Tensor:
        y = call(proj, call(qkv, x, **modulation)[:, :width], residual=x, **out)
        return call(fc2, call(fc1, y, **modulation), residual=y, **out)

    ours = partial(layer, StepLinear.fused if device == "cuda" else StepLinear.apart)
    peer = partial(torch.compile(layer, dynamic=False, fullgraph=True), StepLinear.apart)
    torch.testing.assert_close(ours().float(), peer().float(), rtol=0.05, atol=0.05)
    speedup = recording.replayed_milliseconds(peer, device) / recording.replayed_milliseconds(ours, device)
    what = f"rar-l, {rows} rows, against products and torch.compile, in a replayed graph"
    if rows <= MOST_ROWS:
        record.add_at_least(goal, what, 1.0, speedup, "x")
    else:
        record.add(goal, what, "for comparison", f"{speedup:.2f}x", None)


def test_latency(timed, record, gpu, few_rounds):
    """One image of RAR-B."""
    goal = "latency of one image"
    device = gpu(goal)
    model, plain = networks("rar-b", device, timed)
    timings = recording.measure(beside_peers(record, goal, model, plain, one_class(1, device)), device)
    record.add_at_most(goal, "rar-b, batch 1", 80, recording.median(timings["ours"]), "ms")
    add_ratio(record, goal, "rar-b, batch 1", timings, "the authors' loop", 20.0)
    add_ratio(record, goal, "rar-b, batch 1", timings, "torch.compile + static cache", 1.0)


def test_pairs(timed, record, gpu, few_rounds):
    """Sequences of which 70 % of the tokens are kept, against our plain sampler and the authors' loop."""
    goal = "sampling with kept tokens"
    device, count = gpu(goal), 256 if timed else 3
    model, plain = networks("rar-l", device, timed)
    classes = one_class(count, device)
    given = torch.randint(0, model.codebook_size, (count, model.num_tokens), device=device)
    kept = torch.rand(given.shape, device=device) < SIGMA
    sampler, unforced = (model.sampler(**our_settings(), compile=True) for _ in range(2))
    timings = recording.measure(
        {
            "ours": lambda: sampler.generate(classes, seed=0, keep_tokens=given, keep_ratio=SIGMA),
            "our plain sampler": lambda: unforced.generate(classes, seed=0),
        },
        device,
    )
    what = f"rar-l, batch {count}, sigma {SIGMA}"
    add_ratio(record, goal, what, timings, "our plain sampler", 2.0)
    ours = images_per_second(timings, count)
    few = 50 if timed else 2  # the authors' batch
    call = authors_call(GrowingCache(plain), classes[:few], forced(given[:few], kept[:few]))
    call()
    record.add_at_least(goal, f"{what}, against the authors' loop", 20, ours * recording.seconds(call) / few, "x")
