"""The losses of the authors' implementation: hinge, LeCAM, adaptive weight, totals before and after the start."""

from pathlib import Path

import numpy as np
import pytest
import torch

from robustok.training.losses import LeCAM, adaptive_weight, hinge_discriminator_loss, hinge_generator_loss

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def reference():
    with np.load(GOLDEN / "gan_losses.npz") as arrays:
        return {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}


def test_hinge(reference):
    for real, fake, discriminator, generator in zip(
        *(reference[name] for name in ("logits_real", "logits_fake", "hinge_d", "hinge_g")), strict=True
    ):
        assert hinge_discriminator_loss(real, fake).item() == pytest.approx(discriminator.item(), rel=1e-5)
        assert hinge_generator_loss(fake).item() == pytest.approx(generator.item(), rel=1e-5)


def test_lecam(reference):
    """Six steps: the averages take the batch in before the term is computed."""
    lecam = LeCAM(torch.device("cpu"))
    for step, (real, fake) in enumerate(zip(reference["logits_real"], reference["logits_fake"], strict=True)):
        assert lecam(real, fake).item() == pytest.approx(reference["lecam_reg"][step].item(), rel=1e-5)
        expected = [reference[f"lecam_{side}_ema"][step].item() for side in ("real", "fake")]
        assert lecam.state.tolist() == pytest.approx(expected, rel=1e-5)


def test_generator_total_and_adaptive_weight(reference):
    """The recorded gradients at the last layer give the recorded weight, and with it the recorded total."""
    before, after = reference["gen_last_layer_grad_before_start"], reference["gen_last_layer_grad_after_start"]
    weight, share = reference["adaptive_weight"].item(), reference["disc_weight"].item()
    adversarial_grad = (after - before) / (weight * share)
    assert adaptive_weight(before, adversarial_grad).item() == pytest.approx(weight, rel=1e-3)
    rest = sum(reference[name] for name in ("gen_rec_loss", "gen_perceptual", "vq_loss", "commit_loss", "sem_loss"))
    assert rest.item() == pytest.approx(reference["gen_total_before_start"].item(), rel=1e-5)
    total = rest + share * weight * reference["gen_adv"]
    assert total.item() == pytest.approx(reference["gen_total_after_start"].item(), rel=1e-4)
    assert reference["disc_weight_by_step"].tolist() == [0.0] * 5 + [share] * 3


def test_adaptive_weight_is_clamped():
    large, small = torch.full((3, 3), 1e9), torch.full((3, 3), 1e-9)
    assert adaptive_weight(large, small).item() == 1e4
    assert adaptive_weight(torch.zeros(3, 3), large).item() == 0
    assert not adaptive_weight(large.requires_grad_(), large).requires_grad
