"""Loss terms against formulas written out in float64."""

import numpy as np
import pytest
import torch

from robustok.training import losses


@pytest.mark.parametrize("autocast", [False, True])
def test_semantic_loss_is_symmetric_infonce(autocast):
    rng = np.random.default_rng(0)
    latents, features = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    logits = features @ latents.T

    def cross_entropy(rows):
        return np.mean([np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(rows)])

    expected = 0.5 * (cross_entropy(logits) + cross_entropy(logits.T))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = losses.semantic_loss(torch.tensor(latents), torch.tensor(features))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_hinge_losses():
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 0.25]])
    assert losses.hinge_discriminator_loss(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.625))
    assert losses.hinge_generator_loss(fake).item() == pytest.approx(1.375)


def test_non_saturating_losses():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 0.0])
    softplus = lambda x: np.log1p(np.exp(x))  # noqa: E731
    expected = 0.5 * (np.mean([softplus(-2.0), softplus(1.0)]) + np.mean([softplus(0.5), np.log(2)]))
    assert losses.non_saturating_discriminator_loss(real, fake).item() == pytest.approx(expected)
    assert losses.non_saturating_generator_loss(fake).item() == pytest.approx(np.mean([softplus(-0.5), np.log(2)]))


def test_adaptive_weight_is_the_ratio_of_norms_and_is_clamped():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    assert losses.adaptive_weight(a, b).item() == pytest.approx(5 / 2.0001)
    assert losses.adaptive_weight(a * 1e9, b * 0).item() == pytest.approx(1e4)


def test_lecam_updates_its_means_before_it_compares():
    lecam = losses.LeCAM(torch.device("cpu"))
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 0.5])
    first = lecam(real, fake).item()
    ema_real, ema_fake = 0.001 * 2.0, 0.001 * -0.25
    expected = np.mean([max(r - ema_fake, 0) ** 2 for r in (1.0, 3.0)]) + np.mean(
        [max(ema_real - f, 0) ** 2 for f in (-1.0, 0.5)]
    )
    assert first == pytest.approx(expected, rel=1e-5)
    assert lecam.state.tolist() == pytest.approx([ema_real, ema_fake])
