"""Features, distances and pFID beside the field's own tools, on a CPU and on a GPU."""

import time

import pytest
import torch
from torch import Tensor

from robustok.core.machine import version_of
from robustok.evaluation import FeatureStatistics, InceptionFeatures, frechet_distance, pfid, precision_recall

from . import recording
from .evaluation_peers import (
    blockwise_precision_recall,
    compiled_half_features,
    eigenvalue_distance,
    naive_pfid,
    random_inception,
    sqrtm_distance,
    torch_fidelity_features,
)

WIDTH = 2048


@pytest.fixture
def few_rounds(monkeypatch):
    """Calls that last seconds are repeated less."""
    monkeypatch.setattr(recording, "ROUNDS", {"cpu": 3, "cuda": 5})
    monkeypatch.setattr(recording, "WARM_UP_CALLS", 1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return random_inception(tmp_path_factory.mktemp("bench") / "inception.pth")


def synthetic_features(rows: int, width: int, seed: int) -> Tensor:
    """float32 (rows, width) with the decaying spectrum that image features have."""
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0))).Q
    scales = torch.exp(-3 * torch.arange(width) / width) * (1 + 0.05 * seed)
    return (torch.randn(rows, width, generator=draw) * scales) @ basis


def add_ratio(record, goal: str, what: str, timings: dict, peer: str, ours: str, least: float) -> None:
    record.add_ratio(goal, f"{what} against {peer}", least, timings, peer, ours)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_features_on_cpu(weights, timed, record, few_rounds):
    pytest.importorskip("torch_fidelity", exc_type=ImportError)
    count = 8 if timed else 1
    images = torch.randint(0, 256, (count, 3, 256, 256), dtype=torch.uint8)
    fast, peer = InceptionFeatures(weights, "fast", device="cpu"), torch_fidelity_features(weights, "cpu")
    assert relative_error(fast(images).features, peer(images)) < 1e-4
    if timed:
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        timings = recording.measure({"torch-fidelity": lambda: peer(images), "ours, fast": lambda: fast(images)})
        torch.set_num_threads(threads)
        add_ratio(
            record,
            "features",
            "uint8 256 px to 2048 features, 2 threads,",
            timings,
            "torch-fidelity",
            "ours, fast",
            1.25,
        )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fid_from_features(device, timed, record, needs_gpu, few_rounds):
    if device == "cuda":
        needs_gpu("Fréchet distance")
    width = WIDTH if timed else 64
    rows = (50_000 if device == "cuda" else 10_000) if timed else 500
    features, others = (synthetic_features(rows, width, seed) for seed in (0, 1))
    reference = FeatureStatistics(width, device).update(others.to(device))
    moments = (reference.mean.cpu().numpy(), reference.covariance.cpu().numpy())
    resident = features.to(device)

    def ours() -> float:
        found = FeatureStatistics(width, device)
        for part in resident.split(500):
            found.update(part)
        return frechet_distance(found, reference)

    variants = {"ours": ours, "numpy + scipy sqrtm": lambda: sqrtm_distance(features, moments)}
    if version_of("torch-fidelity"):
        variants["torch-fidelity"] = lambda: eigenvalue_distance(features, moments)
    for run in variants.values():
        assert run() == pytest.approx(ours(), rel=1e-8)
    if timed:
        timings = recording.measure(variants, device)
        what, least = (
            f"covariance + distance, {rows} x {width}, reference known, {device},",
            20 if device == "cuda" else 6,
        )
        add_ratio(record, "Fréchet distance", what, timings, "numpy + scipy sqrtm", "ours", least)


@pytest.mark.parametrize("tf32", [True, False])
def test_features_on_gpu(tf32, weights, record, needs_gpu):
    needs_gpu("features")
    pytest.importorskip("torch_fidelity", exc_type=ImportError)
    images = torch.randint(0, 256, (256, 3, 256, 256), dtype=torch.uint8, device="cuda")
    fast, exact = (InceptionFeatures(weights, mode, device="cuda") for mode in ("fast", "exact"))
    theirs, compiled = torch_fidelity_features(weights, "cuda"), compiled_half_features(weights, "cuda")
    error = relative_error(fast(images).features, exact(images).features)
    assert error < 0.05  # of random weights, which amplify rounding; the gate on real ones is 3e-3
    variants = {
        "torch-fidelity": lambda: theirs(images),
        "torch.compile, float16": lambda: compiled(images),
        "ours, fast": lambda: fast(images),
    }
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
        timings = recording.measure(variants, "cuda")
    what = f"256 images of 256 px, TF32 {'on' if tf32 else 'off'}, relative error {error:.1e},"
    add_ratio(record, "features", what, timings, "torch-fidelity", "ours, fast", 5 if tf32 else 6)
    add_ratio(record, "features", what, timings, "torch.compile, float16", "ours, fast", 1.3)
    speed = 256e3 / sorted(timings["ours, fast"])[len(timings["ours, fast"]) // 2]
    record.add("features", what, ">= 12000 images/s", f"{speed:.0f} images/s", speed >= 12_000)


def test_precision_recall(record, needs_gpu, few_rounds):
    needs_gpu("precision, recall")
    real, fake = (synthetic_features(rows, WIDTH, seed).cuda() for seed, rows in enumerate((10_000, 50_000)))
    variants = {
        "blockwise cdist + topk": lambda: blockwise_precision_recall(real, fake),
        "ours": lambda: precision_recall(real, fake),
    }
    assert variants["ours"]() == pytest.approx(variants["blockwise cdist + topk"](), abs=1e-3)
    timings = recording.measure(variants, "cuda")
    add_ratio(
        record,
        "precision, recall",
        "10,000 real and 50,000 generated,",
        timings,
        "blockwise cdist + topk",
        "ours",
        3,
    )
    middle = sorted(timings["ours"])[len(timings["ours"]) // 2]
    record.add("precision, recall", "the same, time", "<= 150 ms", f"{middle:.0f} ms", middle <= 150)


class Autocast:
    """A tokenizer whose networks run in bfloat16."""

    def __init__(self, tokenizer):
        self.tokenizer, self.codebook, self.normalize = tokenizer, tokenizer.codebook, tokenizer.normalize
        self.encode = torch.autocast("cuda", torch.bfloat16)(tokenizer.encode)
        self.decode = torch.autocast("cuda", torch.bfloat16)(torch.compile(tokenizer.decode, dynamic=False))


def test_pfid(weights, record, needs_gpu):
    needs_gpu("pFID")
    from robustok.model_configs import TokenizerConfig
    from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer

    shape = TokenizerConfig(256, 16, 768, depth=12, heads=12, num_latents=256, codebook_size=4096, code_width=64)
    tokenizer = Autocast(ViTTokenizer(shape).cuda().eval())
    features = InceptionFeatures(weights, "fast", device="cuda")
    few = torch.randint(0, 256, (5120, 3, 256, 256), dtype=torch.uint8, device="cuda").split(256)
    naive = seconds(lambda: naive_pfid(tokenizer, few, features, [(0.7, 70)])) * 15 * 50_000 / 5120
    whole = [few[i % len(few)] for i in range(195)]
    ours = seconds(lambda: pfid(tokenizer, whole, features)) * 50_000 / (195 * 256)
    record.add("pFID", "pFID, 15 x 50,000, bfloat16 tokenizer", "< 300 s", f"{ours:.0f} s", ours < 300)
    what = "against the naive loop with the same kernels (extrapolated from 1 setting x 5,120)"
    record.add("pFID", what, ">= 1.5x", f"{naive / ours:.2f}x", naive / ours >= 1.5, naive_seconds=naive)


def seconds(run) -> float:
    """Wall time with the device's work done."""
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - begin
