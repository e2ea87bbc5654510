"""A run that goes on with other processes than it began with, whole or sharded, takes the same steps."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("world_change.py")
BEGUN = ("ddp2", "fsdp2")  # by two processes
GONE_ON = ("ddp2-1", "ddp2-fsdp3", "fsdp2-1", "fsdp2-ddp4")  # begun by two, gone on by other ones from step 3 of 5
FLOAT32 = 1e-6  # relative: the order of sums differs with the shares of the batch


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    result = subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-5000:]
    (folder / "said").write_text(result.stderr)
    return folder


def records(run: Path, figure: str) -> list[dict]:
    """The lines of the generator's log with this figure."""
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["stage"] == "generator" and figure in line]


def images(runs: Path, name: str) -> dict[tuple[int, int], list[int]]:
    """(epoch, number of the batch) -> its images in order of their ids."""
    found: dict[tuple[int, int], list[int]] = {}
    for line in (runs / f"{name}.ids").read_text().splitlines():
        epoch, number, ids = json.loads(line)
        found[epoch, number] = sorted(found.get((epoch, number), []) + ids)
    return found


def tensors(run: Path, stem: str, step: int = 5) -> dict[str, torch.Tensor]:
    return load_file(run / "generator" / f"step-{step}" / f"{stem}.safetensors")


def learned(runs: Path, stem: str, run: str, step: int) -> torch.Tensor:
    """The weights, or averages, whose gradients are more than noise: Adam makes steps of full length of that, too."""
    found, optimizer = tensors(runs / run, stem, step), tensors(runs / "ddp2", "training")
    size = {name: optimizer[f"optimizer.generator.{name}.exp_avg_sq"].sqrt() for name in found}
    largest = max(values.max() for values in size.values())
    return torch.cat([found[name][size[name] > 1e-3 * largest] for name in sorted(found)])


@pytest.mark.parametrize("name", ["fsdp2", *GONE_ON])
def test_the_steps_are_the_same(runs, name):
    found, expected = (records(runs / run, "loss") for run in (name, "ddp2"))
    assert [record["step"] for record in found] == [1, 2, 3, 4, 5]
    for a, b in zip(found, expected, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=FLOAT32)
        assert a["generator_grad_norm"] == pytest.approx(b["generator_grad_norm"], rel=1e-5)
        assert b["generator_grad_norm"] > 0.5  # so clipping counts
    validated = [records(runs / run, "validation_loss") for run in (name, "ddp2")]
    assert [record["step"] for record in validated[0]] == [0, 3, 5]
    for a, b in zip(*validated, strict=True):
        assert a["validation_loss"] == pytest.approx(b["validation_loss"], rel=FLOAT32)
    for stem in ("model", "ema"):
        ours, theirs, before = (learned(runs, stem, *which) for which in ((name, 5), ("ddp2", 5), ("ddp2", 3)))
        assert (ours - theirs).norm() < 0.01 * (theirs - before).norm(), stem


@pytest.mark.parametrize("name", GONE_ON)
def test_no_image_of_the_epoch_is_left_out_or_repeated(runs, name):
    begun = name.partition("-")[0]
    before = {key: ids for key, ids in images(runs, begun).items() if key < (0, 3)}
    after = images(runs, name)
    assert before.keys().isdisjoint(after) and {(0, 3), (1, 0)} <= after.keys()
    assert before | {key: ids for key, ids in after.items() if key <= (1, 0)} == images(runs, "ddp2")
    epoch = [image for (number, _), ids in (before | after).items() if number == 0 for image in ids]
    assert len(set(epoch)) == len(epoch) == 96  # 4 batches of 24


def test_each_process_of_a_sharded_run_writes_its_own_optimizer_state(runs):
    checkpoint = runs / "fsdp2" / "generator" / "step-3"
    shards = sorted(checkpoint.glob("shard-*.safetensors"))
    assert len(shards) == 2
    assert {path.name for path in shards} <= json.loads((checkpoint / "manifest.json").read_text())["files"].keys()
    first, second = map(load_file, shards)
    name = "optimizer.generator.lm_head.weight.exp_avg"
    whole = load_file(runs / "ddp2" / "generator" / "step-3" / "training.safetensors")[name]
    torch.testing.assert_close(torch.cat([first[name], second[name]]), whole, rtol=1e-4, atol=1e-7)
    assert name not in load_file(checkpoint / "training.safetensors")


def test_torchrun_recovers_from_a_killed_process_to_the_bit(runs):
    for stem in ("model", "ema", "training"):
        found, expected = tensors(runs / "killed", stem), tensors(runs / "ddp2", stem)
        assert found.keys() == expected.keys()
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == [], stem
    said = (runs / "said").read_text()
    assert re.search(r"exitcode: -9\) local_rank: 1 ", said)  # torchrun's, which may end the other before it can speak
    assert len(re.findall("robustok: ", said)) <= 1 and "Traceback" not in said, said
