"""Inception Score, KID and MMD, against recorded numbers of public code and brute force."""

from functools import partial

import numpy as np
import pytest
import torch

from robustok.evaluation import inception_score, kernel_distance, mmd
from robustok.evaluation.metrics.kernel import gaussian, polynomial


@pytest.fixture
def generated(recorded):
    return torch.from_numpy(recorded["features_generated"])


@pytest.fixture
def real(recorded):
    return torch.from_numpy(recorded["features_real"])


@pytest.mark.parametrize("splits", [1, 7, 10])
@pytest.mark.parametrize("seed", [2020, None])
def test_inception_score_is_the_recorded_one(recorded, expected, splits, seed):
    value = expected["inception_score"][f"torch_fidelity_splits{splits}_shuffle{seed is not None}_seed2020"]
    mean, spread = inception_score(torch.from_numpy(recorded["logits"]), splits, seed)
    assert mean == pytest.approx(value["inception_score_mean"], rel=1e-9)
    assert spread == pytest.approx(value["inception_score_std"], rel=1e-9, abs=1e-12)


def test_inception_score_of_the_two_extremes():
    assert inception_score(torch.zeros(100, 50))[0] == pytest.approx(1, abs=1e-12)
    assert inception_score(1e3 * torch.eye(50).repeat(4, 1), 1)[0] == pytest.approx(50, rel=1e-12)


@pytest.mark.parametrize("sizes", [(100, 100), (10, 300)])
@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("poly3_default", polynomial),
        ("poly2_gamma0.02_coef0.5", partial(polynomial, degree=2, gamma=0.02, coef0=0.5)),
        ("rbf_sigma10", partial(gaussian, sigma=10.0)),
        ("rbf_sigma3", partial(gaussian, sigma=3.0)),
    ],
)
def test_kernel_distance_is_the_recorded_one(generated, real, expected, sizes, name, kernel):
    subsets, size = sizes
    value = expected["kid"][f"torch_fidelity_{name}_subsets{subsets}_size{size}_float64"]
    mean, spread = kernel_distance(generated, real, subsets, size, kernel=kernel)
    assert mean == pytest.approx(value["kernel_inception_distance_mean"], rel=1e-7)
    assert spread == pytest.approx(value["kernel_inception_distance_std"], rel=1e-7)


def test_mmd_estimators_are_the_recorded_ones(generated, real, expected):
    value = expected["kid"]["mmd2_estimators_first100_rows_poly3_float64"]
    x, y = generated[:100], real[:100]
    assert mmd(x, y, kernel=polynomial) == pytest.approx(value["biased"], rel=1e-7)
    assert mmd(x, y, kernel=polynomial, unbiased=True) == pytest.approx(value["unbiased"], rel=1e-7)


def test_no_value_of_the_kernel_is_computed_twice(generated, real, monkeypatch):
    monkeypatch.setattr("robustok.evaluation.metrics.kernel.TILE", 64)
    x, y, values = generated[:130].double(), real[:70].double(), []

    def kernel(a, b):
        values.append(polynomial(a, b))
        return values[-1]

    found = mmd(x, y, kernel=kernel, unbiased=True)
    assert sum(v.numel() for v in values) == 130**2 + 70**2 + 130 * 70
    of_x, of_y = (polynomial(rows, rows).fill_diagonal_(0).sum() / (len(rows) * (len(rows) - 1)) for rows in (x, y))
    assert found == pytest.approx(float(of_x + of_y - 2 * polynomial(x, y).mean()), rel=1e-9)


def test_mmd_is_the_double_sum_whatever_the_tiles(generated, real, monkeypatch):
    monkeypatch.setattr("robustok.evaluation.metrics.kernel.TILE", 64)
    x, y = generated[:130].double().numpy(), real[:70].double().numpy()

    def k(a, b):
        return np.exp(-np.square(a[:, None] - b[None]).sum(-1) / (2 * 4.0**2)).mean()

    assert mmd(generated[:130], real[:70], sigma=4.0) == pytest.approx(k(x, x) + k(y, y) - 2 * k(x, y), rel=1e-9)


def test_mmd_is_zero_for_equal_sets_and_grows_with_distance(generated):
    assert mmd(generated, generated) == pytest.approx(0, abs=1e-15)
    near, far = mmd(generated, generated + 0.1, sigma=5.0), mmd(generated, generated + 1, sigma=5.0)
    assert 0 < near < far


def test_too_few_rows_are_refused(generated, real):
    with pytest.raises(ValueError, match="subset_size 1000"):
        kernel_distance(generated, real)
    with pytest.raises(ValueError, match="10 splits"):
        inception_score(torch.zeros(9, 4))
