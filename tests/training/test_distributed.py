"""Two processes on a CPU: the same weights on both at every step, and the losses of one process with the same batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_processes.py")
SETTINGS = {
    "log_every": 1,
    "classifier.epochs": 0.3,
    "classifier.batch_size": 128,
    "tokenizer.width": 64,
    "tokenizer.depth": 1,
    "tokenizer.heads": 2,
    "tokenizer.codebook_size": 16,
    "tokenizer.code_width": 4,
    "codebook.continuous_steps": 2,
    "perturbation.beta": 0.4,
    "perturbation.delta": 4,
    "losses.adversarial_start": 0.4,
    "tokenizer_training.epochs": 0.8,
    "tokenizer_training.lr": 2e-4,  # Adam's first steps blow up the rounding of tiny gradients: keep them small
    "tokenizer_training.batch_size": 128,
}


def train(tmp_path, name: str, processes: int, **settings) -> list[dict]:
    """The log of main training by torchrun with this many processes."""
    options = SETTINGS | {"runs": tmp_path, "name": name, "stage": "tokenizer"} | settings
    argv = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    if processes == 1:
        launch = [sys.executable, "-m", "robustok.train"]
        command = [*launch, *argv]
    else:
        command = [*launch, str(SCRIPT), *argv]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    records = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
    return [record for record in records if record["stage"] == "tokenizer"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_train_as_one(tmp_path, accumulate):
    settings = {"tokenizer_training.accumulate": accumulate}
    if accumulate > 1:  # InfoNCE and the adaptive weight belong to a micro-batch, and two processes cut other ones
        settings |= {"losses.semantic": 0.0, "losses.adversarial": 0.0}
    one = train(tmp_path, "one", 1, **settings)
    two = train(tmp_path, "two", 2, **settings)
    assert len(one) == len(two) == 8
    assert any(record["perturbed"] > 0 for record in one)
    assert any("adversarial" in record for record in one) == (accumulate == 1)
    for a, b in zip(one, two, strict=True):
        same = a.keys() - {"stage", "images_per_second"}
        assert same == b.keys() - {"stage", "images_per_second"}
        for name in same:
            # norms of gradients are sums of squares of small differences: rounding shows there first
            tolerance = 1e-4 if "grad_norm" in name or name == "adaptive_weight" else 1e-5
            assert b[name] == pytest.approx(a[name], rel=tolerance, abs=1e-6), f"{name} at step {a['step']}"
