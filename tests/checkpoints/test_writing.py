"""Checkpoints: complete or absent, refused when damaged or of another config."""

import errno

import pytest
import torch

from robustok.checkpoints import writing as checkpoints
from robustok.checkpoints.reading import load, steps, verify
from robustok.core.errors import RunError, UserError
from robustok.core.files import read_json

TENSORS = {"model": {"weight": torch.arange(6.0).view(2, 3), "tied": torch.ones(2)}}


def test_round_trip_is_exact_and_verified(tmp_path):
    folder = tmp_path / "step-5"
    checkpoints.save(folder, TENSORS, {"state": {"step": 5}})
    verify(folder)
    (loaded,) = load(folder, "model")
    assert torch.equal(loaded["weight"], TENSORS["model"]["weight"])
    assert read_json(folder / "state.json") == {"step": 5}
    assert [path.name for path in tmp_path.iterdir()] == ["step-5"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_named(tmp_path, damage):
    folder = tmp_path / "step-5"
    checkpoints.save(folder, TENSORS, {})
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(data[:-3])
    else:
        file.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is (damaged|missing)"):
        verify(folder)


def test_full_disk_keeps_the_old_checkpoint_and_leaves_no_rubbish(tmp_path, monkeypatch):
    folder = tmp_path / "step-5"
    checkpoints.save(folder, TENSORS, {})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(RunError, match="No space left"):
        checkpoints.save(tmp_path / "step-6", TENSORS, {})
    verify(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["step-5"]


def test_newest_checkpoints_and_the_best_are_kept(tmp_path):
    for name in ("step-5", "step-10", "step-15", "step-100", "step-5-of-mine"):  # the last is none of ours
        (tmp_path / name).mkdir()
    checkpoints.keep_newest(tmp_path, 2, also="step-5")
    assert [path.name for path in steps(tmp_path)] == ["step-5", "step-15", "step-100"]
