"""Compiled blocks are compiled once: what is annealed over the steps of training recompiles nothing."""

from functools import partialmethod

import torch
from torch import nn
from torch._dynamo.utils import counters

from robustok.config import LossConfig, PerturbationConfig
from robustok.training.loop import Fit


def test_annealing_recompiles_nothing(tokenizer_stage, monkeypatch):
    """Perturbation, adversary and learning rates change from step to step; graphs are counted, not made fast."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    annealed = PerturbationConfig(delta=8, beta=0.5, anneal_start=0.0, anneal_end=0.8, anneal_end_ratio=0.1)
    stage = tokenizer_stage(
        compile=True, perturbation=annealed, losses=LossConfig(adversarial_start=0.3, blur_epochs=0.5)
    )
    fit = Fit(stage, stage.run)
    graphs = []
    for batch in fit._batches():
        fit._take_step(batch)
        fit.state.step += 1
        graphs.append(counters["stats"]["unique_graphs"])
    assert len(graphs) >= 8 and graphs[0] > 0
    assert graphs[1:] == graphs[:-1]
