"""Training that must take the same steps: on two processes as on one, in micro-batches as in a batch, compiled or not.

The losses, gradients' norms and figures of every step are compared, in float64.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("train_in_float64.py")
SETTINGS = {
    "stage": "tokenizer",
    "log_every": 1,
    "classifier.epochs": 0.08,  # of 40 steps
    "classifier.batch_size": 32,
    "tokenizer.width": 64,
    "tokenizer.depth": 1,
    "tokenizer.heads": 2,
    "tokenizer.codebook_size": 16,
    "tokenizer.code_width": 4,
    "codebook.continuous_steps": 1,
    "perturbation.beta": 0.6,  # 19 of 32 images: all of one process, some of the other
    "perturbation.delta": 4,
    "losses.adversarial_start": 0.06,
    "losses.lecam": 1.0,
    "tokenizer_training.epochs": 0.15,
    "tokenizer_training.batch_size": 32,
}
# InfoNCE and the adaptive weight belong to a micro-batch: without them the sum over micro-batches is that of the batch.
SUMS = ["--losses.semantic=0", "--losses.adversarial=0"]
VARIANTS = {"all losses": [], "sums": SUMS, "micro-batches": [*SUMS, "--tokenizer_training.accumulate=2"]}
RESTARTS = ["--codebook.restart_dead_after=1", "--tokenizer.codebook_size=256"]  # half the codes have no latent
VARIANTS |= {"restarts": RESTARTS, "restarts in micro-batches": [*SUMS, *RESTARTS, "--tokenizer_training.accumulate=2"]}
COMPILED = {"compiled": ["--compile"]}
RUNS = {1: VARIANTS | COMPILED, 2: VARIANTS}  # by number of processes


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> dict[tuple[int, str], list[dict]]:
    """Records of the logs by (number of processes, variant). One process and two train at the same time."""
    folders = {processes: tmp_path_factory.mktemp("runs") for processes in RUNS}
    with ThreadPoolExecutor() as pool:
        list(pool.map(train, folders, folders.values()))
    return {(count, name): read_log(folders[count] / name) for count, variants in RUNS.items() for name in variants}


def train(processes: int, folder: Path) -> None:
    """All variants, one after the other."""
    settings = [f"--{key}={value}" for key, value in (SETTINGS | {"runs": folder}).items()]
    runs = [[*settings, f"--name={name}", *arguments] for name, arguments in RUNS[processes].items()]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(SCRIPT), json.dumps(runs)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)  # it takes seconds
    assert result.returncode == 0, result.stderr[-3000:]


def read_log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_train_as_one(logs, variant):
    one = logs[1, variant]
    assert [record["stage"] for record in one] == ["classifier"] * 3 + ["tokenizer"] * 6
    assert any(record.get("perturbed", 0) > 0 for record in one)
    assert any("adversarial" in record for record in one) == (variant in ("all losses", "restarts"))
    assert_same_steps(logs[2, variant], one)


def test_micro_batches_train_as_one_batch(logs):
    assert_same_steps(logs[1, "micro-batches"], logs[1, "sums"])


def test_compiled_training_takes_the_steps_of_eager_training(logs):
    assert_same_steps(logs[1, "compiled"], logs[1, "all losses"])


def assert_same_steps(found: list[dict], expected: list[dict]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        values = [
            {name: x for name, x in step.items() if name not in ("stage", "seconds", "images_per_second")}
            for step in (a, b)
        ]
        assert values[0] == pytest.approx(values[1], rel=1e-9), f"{b['stage']}, step {b['step']}"
