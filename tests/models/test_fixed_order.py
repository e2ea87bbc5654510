"""Gradients are the same bits every time, however many threads sum them: a resumed run depends on it."""

import pytest
import torch

from robustok.model_configs import RARConfig
from robustok.models.generators.rar import RAR
from robustok.models.tokenizers.residual import ResidualQuantizer


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def gradients(model, loss) -> list[torch.Tensor]:
    model.zero_grad()
    loss().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_of_rar():
    torch.manual_seed(0)
    sizes = {"width": 32, "depth": 1, "heads": 2, "mlp_width": 64, "codebook_size": 16, "num_classes": 3}
    model = RAR(RARConfig(**sizes, num_tokens=64, dropout=0.0, attention_dropout=0.0))
    tokens, classes = torch.randint(16, (64, 64)), torch.randint(3, (64,))
    orders = torch.stack([torch.randperm(64) for _ in range(64)])

    def loss():
        return model(tokens, classes, orders).square().sum()

    first = gradients(model, loss)
    for _ in range(5):
        assert all(map(torch.equal, gradients(model, loss), first))


def test_of_residual_codes():
    torch.manual_seed(0)
    model = ResidualQuantizer(16, 8, scales=(1, 2, 4, 8), convs=2)
    indices = torch.randint(16, (64, 85))

    def loss():
        return model.lookup(indices).square().sum()

    first = gradients(model, loss)
    for _ in range(5):
        assert all(map(torch.equal, gradients(model, loss), first))
