"""Shared by the tests of evaluation: recorded numbers of public code, random Inception weights, a small tokenizer."""

import json
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustok import vq_nearest
from robustok.evaluation.features.inception import InceptionFeatures

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before a kernel is imported: then it runs on the CPU

PEERS = Path(__file__).parents[1] / "golden_peers"


@pytest.fixture(scope="session")
def peers() -> Path:
    return PEERS


@pytest.fixture(scope="session")
def recorded() -> dict[str, np.ndarray]:
    """Features and logits of metrics/."""
    with np.load(PEERS / "metrics" / "metrics_inputs.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def expected() -> dict:
    """What public code gave for them."""
    return json.loads((PEERS / "metrics" / "metrics_expected.json").read_text())


def recipe_weights() -> dict[str, Tensor]:
    """Inception weights by the recipe of the recorded numbers: each tensor from the CRC-32 of its name."""
    keys = json.loads((PEERS / "inception" / "weights_recipe_keys.json").read_text())
    weights = {}
    for key, entry in keys["layout_pytorch_fid_fid_inception_v3"].items():
        shape = entry["shape"]
        if key.endswith("num_batches_tracked"):
            continue
        draw = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
        if len(shape) == 4:
            values = draw.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif key.endswith(("bn.weight", "bn.running_var")):
            values = draw.uniform(0.5, 1.5, shape)
        else:
            values = draw.standard_normal(shape) * (0.01 if key.startswith("fc.") else 0.1)
        weights[key] = torch.from_numpy(values.astype(np.float32))
    return weights


@pytest.fixture(scope="session")
def inception_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(recipe_weights(), path)
    return path


@pytest.fixture(scope="session")
def inception(inception_path) -> InceptionFeatures:
    return InceptionFeatures(inception_path, "exact", device="cpu")


class Output(NamedTuple):
    features: Tensor


class PixelFeatures:
    """Features that can be checked by hand: fixed random projections of the pixels."""

    protocol = "pixels"

    def __init__(self, dim: int = 12):
        self.dim = dim

    def __call__(self, images: Tensor) -> Output:
        pixels = images.double().flatten(1) / 255
        matrix = torch.randn(pixels.shape[1], self.dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        return Output(torch.tanh(pixels @ matrix / 8))


class LinearTokenizer(nn.Module):
    """The part of the tokenizer protocol that pFID needs: random linear maps around a codebook."""

    image_size, grid, K, D = 16, 4, 48, 6

    def __init__(self, normalize: bool = True):
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.normalize = normalize
        self.register_buffer("codebook", torch.randn(self.K, self.D, generator=draw))
        self.register_buffer("weight", torch.linalg.qr(torch.randn(3 * 16 * 16, 16 * self.D, generator=draw)).Q)
        self.encoded = 0

    def encode(self, images: Tensor) -> Tensor:
        self.encoded += len(images)
        return (images.flatten(1) @ self.weight).view(-1, 16, self.D)

    def tokenize(self, images: Tensor) -> Tensor:
        return vq_nearest(self.encode(images), self.codebook, normalize=self.normalize)

    def decode(self, z_q: Tensor) -> Tensor:
        return (3 * z_q.flatten(1) @ self.weight.T).view(-1, 3, 16, 16)


@pytest.fixture
def tokenizer() -> LinearTokenizer:
    return LinearTokenizer()


@pytest.fixture
def pixels() -> PixelFeatures:
    return PixelFeatures()


@pytest.fixture(scope="session")
def images() -> Tensor:
    """uint8 (60, 3, 16, 16): smooth random fields, so that images differ as a whole."""
    draw = torch.Generator().manual_seed(11)
    coarse = torch.rand(60, 3, 4, 4, generator=draw)
    return (nn.functional.interpolate(coarse, 16, mode="bilinear") * 255).round().to(torch.uint8)
