"""Scores of the PyTorch and CUDA backends are within their bounds where tensor cores cut off what does not fit."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robustok.ops.vq.backends import cuda_backend, torch_backend

from .tensor_cores import LOST, ROUNDED_DOWN, multiply


@pytest.mark.parametrize("D", [64, 1024])
def test_sums_of_many_products_that_are_lost(D):
    z = torch.full((1, D), LOST)
    z[0, 0] = ROUNDED_DOWN
    codes = cuda_backend.TiledCodebook(z, "dot")
    scaled, error = codes.scaled(z, cuda_backend._NEAREST_ROUNDOFF)
    score = multiply(scaled.half().numpy(), codes.tiles[:1, : D + 1].numpy().T, np.zeros((1, 1), np.float32)).item()
    exact = (z.double().square().sum() * 4.0 ** -codes.exponent.double()).item()
    assert error.item() / 2 < exact - score <= error.item()


def test_operands_that_tf32_cuts_off(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "matmul", SimpleNamespace(fp32_precision="tf32"))
    rows = torch.full((1, 8), 1 + 2.0**-10 - 2.0**-20)
    codes = torch_backend.ScoredCodebook(rows, "dot")
    _, error = codes.score(rows)
    assert error.item() > rows.double().square().sum().item() - 8  # as if all were 1
