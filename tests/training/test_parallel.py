"""How a network is called in training: its compiled blocks, and its shards over several processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from robustok.models.compiling import CompiledBlock
from robustok.models.vit import ViT
from robustok.training.parallel import LossModule, parallelize


class Half(CompiledBlock):
    def forward(self, x):
        return x / 2


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Half() for _ in range(2))
        self.blocks = nn.ModuleList([nn.Linear(2, 2)])


def test_compiles_the_declared_blocks_alone(monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    network = Network()
    assert parallelize(network, compile=False) is network
    assert compiled == []
    assert parallelize(network, compile=True) is network
    assert compiled == [*network.layers]


def test_loss_module_calls_the_loss_and_trains_the_models_parameters():
    class Model(nn.Linear):
        def loss(self, x, *, scale):
            return scale * self(x).sum(), {"scale": scale}

    model = Model(2, 1)
    loss, terms = LossModule(model)(torch.ones(1, 2), scale=3.0)
    loss.backward()
    assert terms == {"scale": 3.0}
    assert torch.equal(model.weight.grad, torch.full((1, 2), 3.0))


def test_activations_computed_again_give_the_same_gradients_to_the_bit():
    """Also where a block draws at random (stochastic depth); and what backward keeps is less."""

    def gradients(checkpoint_activations: bool) -> tuple[dict[str, torch.Tensor], int]:
        torch.manual_seed(0)
        vit = ViT(grid=4, patch_size=2, width=16, depth=3, heads=2, layer_scale=0.5, drop_path=0.5)
        parallelize(vit, checkpoint_activations=checkpoint_activations)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
            loss = vit(torch.randn(6, 3, 8, 8)).square().mean()
        loss.backward()
        return {name: p.grad for name, p in vit.named_parameters()}, sum(kept)

    (again, less), (expected, more) = gradients(True), gradients(False)
    assert again.keys() == expected.keys() and less < more / 2
    assert [name for name in expected if not torch.equal(again[name], expected[name])] == []


@pytest.fixture(scope="module")
def sharded() -> dict:
    script = Path(__file__).with_name("sharded_steps.py")
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=600)
    assert result.stdout, result.stderr[-3000:]
    return json.loads(result.stdout)


@pytest.mark.parametrize("numbers", ["float32", "bfloat16", "fused"])
def test_shards_take_the_steps_of_whole_networks(sharded, numbers):
    """Under autocast, too: what is brought together in bfloat16 is what autocast would round to that anyway."""
    ddp, fsdp = sharded[numbers]["ddp"], sharded[numbers]["fsdp"]
    assert len({loss for loss, _ in ddp}) == 3
    for ours, theirs in zip(fsdp, ddp, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3 if numbers == "bfloat16" else 1e-5)


def test_gradients_are_averaged_once_a_step(sharded):
    first, second = sharded["averaging collectives"]
    assert first == 0 < second
