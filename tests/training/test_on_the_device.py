"""A training step on a GPU against the same step on the CPU, in float32."""

import pytest
import torch

from robustok.config import LossConfig
from robustok.data.loader import load_batch
from robustok.training.loop import Fit

STEPS = 2
ALL_LOSSES = LossConfig(adversarial_start=0.0, lecam=1.0)


def steps_of(stage) -> list[dict[str, float]]:
    """Losses and norms of the first steps."""
    fit = Fit(stage, stage.run)
    batch = load_batch(stage.dataset, torch.arange(8), seed=0, epoch=0)
    found = []
    for _ in range(STEPS):
        found.append({name: float(value) for name, value in fit._take_step(batch).items()})
        fit.state.step += 1
    return found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_is_that_of_the_cpu(tokenizer_stage):
    """With adversary, perturbation and every loss; the second step sees what the first one changed."""
    settings = {"precision": "float32", "losses": ALL_LOSSES}
    both = [steps_of(tokenizer_stage(name=device, device=device, **settings)) for device in ("cpu", "cuda")]
    for expected, found in zip(*both, strict=True):
        assert found.keys() == expected.keys() and {"adversarial", "discriminator", "perturbed"} <= found.keys()
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
