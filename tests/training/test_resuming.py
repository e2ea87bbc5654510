"""A checkpoint holds whole tensors, also of a network that is sharded over several processes."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import nn

from robustok.config import RunConfig, TrainingConfig
from robustok.training import resuming
from robustok.training.ema import EMA
from robustok.training.optimizers import TrainedModule
from robustok.training.run import Run

SCRIPT = Path(__file__).with_name("sharded_process.py")


def save_after_a_step(folder, shard) -> None:
    """Writes FOLDER/run/toy/step-1 after an optimiser step of two small layers, sharded in place by `shard`."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    shard(network)
    parameters = dict(network.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values())
    network(torch.arange(8.0).view(2, 4)).square().sum().backward()
    optimizer.step()
    trained = TrainedModule("toy", network, network, parameters, optimizer, lambda step: 0.1)
    stage = SimpleNamespace(
        name="toy",
        kind="toy",
        sections=(),
        training=TrainingConfig(),
        model=network,
        trained=[trained, trained],  # the second has a file of its own
        extra_state=dict,
        upstream={},
        model_config=dict,
    )
    run = Run(RunConfig(runs=str(folder), name="run", device="cpu"))
    resuming.save(stage, EMA(network, 0.9), resuming.StageState(step=1), run)
    run.close()


def tensors(folder) -> dict[str, torch.Tensor]:
    files = (folder / "run" / "toy" / "step-1").glob("*.safetensors")
    return {f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def test_a_sharded_network_is_saved_whole(tmp_path):
    (tmp_path / "two").mkdir()
    command = [sys.executable, str(SCRIPT)]
    options = {"stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path / "two")], **options) for rank in range(2)]
    try:
        save_after_a_step(tmp_path / "one", lambda network: None)
        for process in processes:
            _, errors = process.communicate(timeout=900)
            assert process.returncode == 0, errors[-3000:]
    finally:  # a process that waits for the other for ever is what this test is about
        for process in processes:
            process.kill()
    expected, found = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert found.keys() == expected.keys()
    assert {"model/0.weight", "ema/1.bias", "toy/0.weight", "training/optimizer.toy.0.bias.exp_avg"} <= found.keys()
    different = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
    assert different == []
