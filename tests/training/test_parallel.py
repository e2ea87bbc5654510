"""How a network is called in training: compiled blocks are found by what they are, not by the name of their list."""

import torch
from torch import nn

from robustok.models.compiling import CompiledBlock
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
