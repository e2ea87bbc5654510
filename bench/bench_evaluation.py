"""Features and distances beside the field's own tools, on a CPU and on a GPU."""

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from robustok.core.machine import version_of
from robustok.evaluation import FeatureStatistics, InceptionFeatures, frechet_distance, precision_recall

from . import recording
from .evaluation_peers import (
    blockwise_precision_recall,
    compiled_half_features,
    eigenvalue_distance,
    flash_neighbors,
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
def test_fid_from_features(device, timed, record, gpu, few_rounds):
    if device == "cuda":
        device = gpu("Fréchet distance")
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
        theirs = {"torch-fidelity": lambda: eigenvalue_distance(features, moments)}
        variants |= record.able("Fréchet distance", theirs)
    for run in variants.values():
        assert run() == pytest.approx(ours(), rel=1e-8)
    timings = recording.measure(variants, device)
    what, least = f"covariance + distance, {rows} x {width}, reference known, {device},", 20 if device == "cuda" else 6
    add_ratio(record, "Fréchet distance", what, timings, "numpy + scipy sqrtm", "ours", least)
    add_ratio(record, "Fréchet distance", what, timings, "torch-fidelity", "ours", 1)


@pytest.mark.parametrize("tf32", [True, False])
def test_features_on_gpu(tf32, weights, timed, record, gpu, few_rounds):
    goal = "features"
    if not timed and not tf32:
        pytest.skip("the same with TF32, which a CPU does not have")
    device, count = gpu(goal), 256 if timed else 1
    images = torch.randint(0, 256, (count, 3, 256, 256), dtype=torch.uint8, device=device)
    fast, exact = (InceptionFeatures(weights, mode, device=device) for mode in ("fast", "exact"))
    compiled = compiled_half_features(weights, device) if timed else exact
    error = relative_error(fast(images).features, exact(images).features)
    assert error < 0.05  # of random weights, which amplify rounding; the gate on real ones is 3e-3
    peers = {"torch.compile, float16": lambda: compiled(images)}
    if theirs := torch_fidelity_features(weights, device):
        peers["torch-fidelity"] = lambda: theirs(images)
    variants = record.able(goal, peers) | {"ours, fast": lambda: fast(images)}
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32):  # which ours sets by itself
        timings = recording.measure(variants, device)
    what = f"{count} images of 256 px, TF32 {'on' if tf32 else 'off'}, relative error {error:.1e},"
    add_ratio(record, goal, what, timings, "torch-fidelity", "ours, fast", 5 if tf32 else 6)
    add_ratio(record, goal, what, timings, "torch.compile, float16", "ours, fast", 1.3)
    record.add_at_least(goal, what, 12_000, count * 1e3 / recording.median(timings["ours, fast"]), "images/s")


def test_precision_recall(timed, record, gpu, few_rounds):
    goal = "precision, recall"
    device, width = gpu(goal), WIDTH if timed else 64
    counts = (10_000, 50_000) if timed else (100, 200)
    real, fake = (synthetic_features(rows, width, seed).to(device) for seed, rows in enumerate(counts))
    variants = {
        "blockwise cdist + topk": lambda: blockwise_precision_recall(real, fake),
        "ours": lambda: precision_recall(real, fake),
    }
    if find_spec("flashlib") and device == "cuda":
        variants |= record.able(goal, {"flashlib": lambda: flash_neighbors(real, fake)})
    expected = variants["ours"]()
    if "flashlib" in variants:
        found = variants["flashlib"]()
        record.add(goal, "flashlib's precision and recall, and ours", "for comparison", f"{found}, {expected}", None)
    assert expected == pytest.approx(variants["blockwise cdist + topk"](), abs=1e-3)
    timings, what = recording.measure(variants, device), f"{counts[0]} real and {counts[1]} generated,"
    add_ratio(record, goal, what, timings, "blockwise cdist + topk", "ours", 3)
    add_ratio(record, goal, what, timings, "flashlib", "ours", 1)
    record.add_at_most(goal, f"{what} time", 150, recording.median(timings["ours"]), "ms")
