"""A training step reads nothing from the device: the host could not run ahead of a GPU otherwise."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from robustok.config import LossConfig
from robustok.training.loop import Fit

READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default, torch.ops.aten.equal.default}
WAITS = READS | {torch.ops.aten.nonzero.default, torch.ops.aten.masked_select.default}


class NoWaiting(TorchDispatchMode):
    """Refuses what gives the host a value, or makes a shape out of values, which a GPU would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in WAITS, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def test_a_step_with_every_loss_reads_nothing(tokenizer_stage):
    stage = tokenizer_stage(losses=LossConfig(adversarial_start=0.0, lecam=1.0))
    for trained in stage.trained:  # as on a GPU
        groups = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in trained.optimizer.param_groups]
        trained.optimizer = torch.optim.AdamW(groups, fused=True)
    fit = Fit(stage, stage.run)
    batches = fit._batches()
    for _ in range(2):
        with NoWaiting():
            terms = fit._take_step(next(batches))
        fit.state.step += 1
    assert {"reconstruction", "perceptual", "semantic", "vq", "adversarial", "discriminator"} <= terms.keys()


def test_the_watch_sees_a_read():
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        torch.ones(1).item()
