"""Golden data: small random-weight networks in the released formats, with outputs of the authors' implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from robustok.convert import main as convert

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden():
    """name -> the arrays of golden/NAME.npz as tensors (text stays an array)."""

    def load(name: str) -> dict:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return {k: v if v.dtype.kind == "U" else torch.from_numpy(np.array(v)) for k, v in arrays.items()}

    return load


@pytest.fixture(scope="session")
def golden_path():
    return GOLDEN


@pytest.fixture(scope="session")
def images(golden):
    """The two test images, float32 (2, 3, 256, 256)."""
    return (golden("tokenizer_io")["images_u8"].float() - 128) / 128


def assert_near(found: torch.Tensor, expected: torch.Tensor, relative: float = 1e-4):
    """Largest difference below `relative` times the largest expected value."""
    assert found.shape == expected.shape
    difference = (found.double() - expected.double()).abs().max().item()
    scale = expected.double().abs().max().item()
    assert difference <= relative * scale, f"differs by {difference:.3g}, largest value {scale:.3g}"


@pytest.fixture(scope="session")
def near():
    return assert_near


@pytest.fixture
def released(golden_path):
    return golden_path / "tokenizer_ckpt.pt"


@pytest.fixture
def generator_file(golden_path):
    return golden_path / "rar" / "pytorch_model.bin"


@pytest.fixture
def converted(released, tmp_path):
    convert([str(released), str(tmp_path / "ours"), "--num_heads", "2"])
    return tmp_path / "ours"
