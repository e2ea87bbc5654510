"""Learning rates and annealing against values computed by hand (the golden curves are compared elsewhere)."""

import math
from dataclasses import replace

import pytest

from robustok.config import PerturbationConfig
from robustok.training.schedules import cosine_rate, perturbation_strength

PUBLISHED = PerturbationConfig(delta=100, anneal_start=40.0, anneal_end=120.0)


@pytest.mark.parametrize(
    ("epoch", "alpha", "delta"), [(0, 1.0, 100), (40, 1.0, 100), (80, 0.75, 75), (120, 0.5, 50), (199, 0.5, 50)]
)
def test_published_annealing(epoch, alpha, delta):
    assert perturbation_strength(PUBLISHED, epoch) == (pytest.approx(alpha), delta, 0.0)


def test_annealing_to_zero_keeps_one_neighbour():
    config = replace(PUBLISHED, anneal_end_ratio=0.0)
    assert perturbation_strength(config, 150) == (0.0, 1, 0.0)


def test_the_strength_of_noise_is_annealed_too():
    config = replace(PUBLISHED, kind="gaussian", strength=0.8)
    assert [perturbation_strength(config, epoch)[2] for epoch in (0, 80, 120)] == pytest.approx([0.8, 0.6, 0.4])


def test_cosine_rate_of_rar():
    rate = lambda step: cosine_rate(step, total=250_000, warmup=62_500, peak=4e-4, floor=1e-5, decay_from=62_500)  # noqa: E731
    assert rate(1) == pytest.approx(6.4e-9)
    assert rate(62_500) == pytest.approx(4e-4)
    assert rate(156_250) == pytest.approx(1e-5 + 3.9e-4 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert rate(250_000) == rate(260_000) == pytest.approx(1e-5)
