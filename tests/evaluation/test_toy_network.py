"""A network of features is one callable and one line of the registry: a toy one is an option of `evaluate`."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.linalg import sqrtm

from robustok import evaluate
from robustok.evaluation.features.registry import NETWORKS


class Means:
    """The mean of each colour."""

    protocol, sha256 = "toy-means/float32", None

    def __init__(self, weights, mode, device):
        self.device = device

    def __call__(self, images):
        return SimpleNamespace(features=images.to(self.device).float().mean((2, 3)))


def test_a_registered_network_is_compared(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "means", Means)
    draw, means = np.random.default_rng(0), []
    for name, low in (("a", 0), ("b", 60)):
        images = draw.integers(low, 256, (50, 8, 8, 3), np.uint8)
        np.savez(tmp_path / f"{name}.npz", images)
        means.append(images.mean((1, 2)))
    argv = f"samples {tmp_path}/a.npz --reference {tmp_path}/b.npz --network means --device cpu --output {tmp_path}/out"
    evaluate.main(argv.split())
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    (m, C), (n, D) = ((x.mean(0), np.cov(x.T)) for x in means)
    expected = ((m - n) ** 2).sum() + np.trace(C + D - 2 * sqrtm(C @ D).real)
    assert found["metrics"]["fd"] == pytest.approx(expected, rel=1e-4)
    assert found["samples"]["protocol"] == found["reference"]["protocol"] == "toy-means/float32"
