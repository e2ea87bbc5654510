"""How many operations a step asks for: a GPU is idle between many small ones. Bounds that fail when it gets worse.

Counted of the loss and its gradients. The optimiser is left out: on a GPU it is fused. The bounds are one or two parts
of a hundred above what torch 2.14 counts; a random draw (Philox) takes 120 operations.
"""

from dataclasses import replace

import torch

from robustok.data.loader import load_batch
from robustok.training.loop import Fit
from robustok.training.optimizers import TrainedModule
from robustok.training.run import Run
from robustok.training.stages.base import Stage
from tests.operations import Operations

from .conftest import CONFIG
from .test_no_host_reads import ALL_LOSSES, Making


def operations_of(stage: Stage, run: Run, images: int, monkeypatch) -> int:
    """Of a step on so many images, after a first one."""
    monkeypatch.setattr(TrainedModule, "step", lambda self, number: torch.zeros(()))
    fit = Fit(stage, run)
    batch = load_batch(stage.dataset, torch.arange(images), seed=0, epoch=0)
    fit._take_step(batch)
    with Operations() as done:
        fit._take_step(batch)
    return done.count.total()


def test_a_tokenizers_step(tokenizer_stage, monkeypatch):
    """Depth 1, with its adversary, perturbation and every loss: the batch changes the size of operations alone."""
    found = []
    for images in (16, 64):
        training = replace(CONFIG.tokenizer_training, batch_size=images)
        stage = tokenizer_stage(losses=ALL_LOSSES, tokenizer_training=training)
        found.append(operations_of(stage, stage.run, images, monkeypatch))
        stage.run.close()
    assert found[0] == found[1] <= 1850


def test_a_step_of_rar(tmp_path, monkeypatch):
    making = Making(tmp_path)
    stage = making.generator("rar")
    try:
        assert operations_of(stage, making.opened, 8, monkeypatch) <= 440
    finally:
        making.opened.close()
