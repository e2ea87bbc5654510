"""Schedules equal those of the authors' implementation, apart from the departures listed in METHOD.md section 9."""

from pathlib import Path

import numpy as np
import pytest

from robustok.config import OrderConfig, PerturbationConfig, RunConfig
from robustok.core.annealing import anneal_ratio
from robustok.models.generators.rar import order_schedule
from robustok.training.schedules import cosine_rate, perturbation_strength

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def reference():
    with np.load(GOLDEN / "schedules.npz") as arrays:
        return dict(arrays)


def test_annealing_at_the_published_end_ratio(reference):
    start, end, end_ratio, alpha, delta = reference["anneal_config"].tolist()
    config = PerturbationConfig(
        alpha=alpha, delta=int(delta), anneal_start=start, anneal_end=end, anneal_end_ratio=end_ratio
    )
    for epoch, ratio, rate, strength in zip(
        *(reference[f"anneal_{name}"] for name in ("epoch", "ratio", "alpha", "delta")), strict=True
    ):
        assert anneal_ratio(epoch, start=start, end=end, end_ratio=end_ratio) == pytest.approx(ratio, abs=1e-12)
        assert perturbation_strength(config, epoch)[:2] == (pytest.approx(rate, abs=1e-12), strength)


def test_annealing_at_another_end_ratio_is_continuous(reference):
    """The reference falls to 1 - end_ratio and jumps; ours agrees with it only outside the slope."""
    start, end, _, _, _ = reference["anneal_config"].tolist()
    end_ratio = reference["anneal_other_end_ratio"].item()
    ours = [anneal_ratio(e, start=start, end=end, end_ratio=end_ratio) for e in reference["anneal_epoch"]]
    outside = (reference["anneal_epoch"] <= start) | (reference["anneal_epoch"] > end)
    np.testing.assert_allclose(np.array(ours)[outside], reference["anneal_other_ratio"][outside], atol=1e-12)
    assert np.abs(np.diff(ours)).max() == pytest.approx((1 - end_ratio) / (end - start))


def test_post_training_is_not_annealed(reference):
    for epoch, ratio in zip(reference["post_epoch"], reference["post_ratio"], strict=True):
        assert anneal_ratio(epoch, start=100, end=100, end_ratio=0.5) == ratio


def test_random_orders(reference):
    start, end = reference["rar_random_config"].tolist()
    run = RunConfig(order=OrderConfig(anneal_start=start, anneal_end=end))
    for step, ratio in zip(reference["rar_random_steps"], reference["rar_random_ratio"], strict=True):
        assert order_schedule(run, step)["random_order_share"] == pytest.approx(ratio, abs=1e-12)


def test_rate_of_the_generator(reference):
    warmup, total, peak, floor = reference["rar_lr_config"].tolist()
    for step, rate in zip(reference["rar_lr_steps"], reference["rar_lr"], strict=True):
        ours = cosine_rate(step, total=total, warmup=warmup, peak=peak, floor=floor, decay_from=warmup)
        assert ours == pytest.approx(rate, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "start", "shape"),
    [
        ("main_lr_gen", 0, {"total": 200, "warmup": 1, "peak": 2.4e-4, "floor": 5e-5}),
        ("main_lr_disc", 56, {"total": 144, "warmup": 4, "peak": 8e-4, "floor": 5e-5}),
        ("post_lr_gen", 0, {"total": 100, "warmup": 1, "peak": 5e-5, "floor": 1e-5}),
        ("post_lr_disc", 0, {"total": 100, "warmup": 2, "peak": 5e-5, "floor": 1e-5}),
    ],
)
def test_rates_of_tokenizer_and_discriminator(reference, name, start, shape):
    """At the start of every epoch from 1 on; the reference holds each rate for an epoch."""
    curve = reference[f"tok_{name}"]
    for epoch in range(max(start, 1), len(curve)):
        assert cosine_rate(epoch - start, first=1e-5, **shape) == pytest.approx(curve[epoch], rel=1e-6), epoch
