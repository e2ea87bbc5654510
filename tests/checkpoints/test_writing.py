"""Checkpoints: complete or absent, refused when damaged or of another config."""

import errno

import pytest
import torch

from robustok.checkpoints import writing as checkpoints
from robustok.checkpoints.reading import damage, load, newest_whole, steps, verify
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


def saved(folder, *numbers):
    """Checkpoints step-N of these numbers."""
    for number in numbers:
        checkpoints.save(folder / f"step-{number}", TENSORS, {})
    return [folder / f"step-{number}" for number in numbers]


def break_a_byte(checkpoint):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")


def test_newest_checkpoints_and_the_best_are_kept(tmp_path):
    saved(tmp_path, 5, 10, 15, 100)
    (tmp_path / "step-5-of-mine").mkdir()  # none of ours
    checkpoints.keep_newest(tmp_path, 2, also=["step-5", None])
    assert [path.name for path in steps(tmp_path)] == ["step-5", "step-15", "step-100"]
    checkpoints.keep_newest(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-100", "step-5-of-mine"]


def test_nothing_is_deleted_while_no_newer_one_is_whole(tmp_path):
    _, middle, newest = saved(tmp_path, 1, 2, 3)
    (newest / "model.safetensors").unlink()
    (middle / "manifest.json").unlink()
    checkpoints.keep_newest(tmp_path, 2)
    assert len(steps(tmp_path)) == 3


def test_the_newest_whole_one_is_taken_and_damaged_ones_are_named_and_set_aside(tmp_path, capsys):
    first, second, third = saved(tmp_path, 5, 10, 15)
    break_a_byte(second)
    (third / "manifest.json").write_text("{}")
    assert newest_whole(tmp_path) == first
    said = capsys.readouterr().err
    assert f"{second / 'model.safetensors'} is damaged: its SHA-256" in said and "going on from step-5" in said
    assert f"{third / 'manifest.json'} holds no sizes and hashes" in said and str(tmp_path / "step-15.damaged") in said
    assert [path.name for path in steps(tmp_path)] == ["step-5"] and damage(tmp_path / "step-10.damaged")
    (again,) = saved(tmp_path, 10)
    break_a_byte(again)
    assert newest_whole(tmp_path) == first and (tmp_path / "step-10.damaged.2").is_dir()


def test_where_all_are_damaged_none_is_taken_and_none_renamed(tmp_path):
    assert newest_whole(tmp_path) is None
    for checkpoint in saved(tmp_path, 1, 2):
        break_a_byte(checkpoint)
    with pytest.raises(UserError, match=r"no checkpoint that is whole(.|\n)*step-2(.|\n)*step-1(.|\n)*begin"):
        newest_whole(tmp_path)
    assert [path.name for path in steps(tmp_path)] == ["step-1", "step-2"]
