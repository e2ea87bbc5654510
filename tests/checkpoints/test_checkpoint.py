"""A checkpoint and its folder: everything comes back, and adapters are added to the weights that they adapt."""

from dataclasses import dataclass

import pytest
import torch

from robustok.checkpoints.checkpoint import Checkpoint, read_checkpoint, read_config, write_checkpoint
from robustok.checkpoints.writing import save
from robustok.core.errors import UserError


@dataclass(frozen=True)
class Shape:
    width: int = 2
    scales: tuple[int, ...] | None = None


def test_round_trip(tmp_path):
    before = Checkpoint(
        path=tmp_path,
        layout="made up",
        config=Shape(4, (1, 2)),
        weights={"ema": {"w": torch.arange(3.0)}, "model": {"w": torch.ones(3)}},
        teacher={"t": torch.zeros(2)},
        discriminator={"d": torch.full((1,), 5.0)},
        upstream={"args": {"lr": 0.5, "scales": [1, 2]}, "steps": 7},
    )
    write_checkpoint(before, "shape", tmp_path / "ours")
    kind, config = read_config(tmp_path / "ours", {"other": int, "shape": Shape})
    after = read_checkpoint(tmp_path / "ours", kind, config)
    assert kind == "shape" and after.config == before.config and after.upstream == before.upstream
    for name in ("weights", "teacher", "discriminator"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=0, atol=0)
    with pytest.raises(UserError, match="kind must be one of other, found 'shape'"):
        read_config(tmp_path / "ours", {"other": int})


def test_what_is_not_there_is_not_written(tmp_path):
    write_checkpoint(Checkpoint(tmp_path, "", Shape(), {"ema": {"w": torch.ones(1)}}), "shape", tmp_path / "ours")
    assert {p.name for p in (tmp_path / "ours").iterdir()} == {"config.json", "ema.safetensors", "manifest.json"}
    checkpoint = read_checkpoint(tmp_path / "ours", "shape", Shape())
    with pytest.raises(UserError, match=r"shape checkpoint .* without 'model' weights; it has 'ema': ask for those"):
        checkpoint.choose("model")


def test_low_rank_adapters_are_merged(tmp_path):
    weight, low, high = torch.randn(5, 4), torch.randn(2, 4), torch.randn(5, 2)
    state = {
        "fc.base_layer.weight": weight,
        "fc.base_layer.bias": torch.ones(5),
        "fc.lora_A.default.weight": low,
        "fc.lora_B.default.weight": high,
        "norm.weight": torch.zeros(5),
    }
    save(tmp_path / "ours", {"ema": state}, {})
    found = read_checkpoint(tmp_path / "ours", "shape", Shape()).weights["ema"]
    assert set(found) == {"fc.weight", "fc.bias", "norm.weight"}
    expected = weight.double() + torch.einsum("or,ri->oi", high.double(), low.double())
    torch.testing.assert_close(found["fc.weight"].double(), expected, rtol=1e-5, atol=1e-5)
