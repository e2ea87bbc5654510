"""The intervals of a study hold what they say as often as they say, and equal the textbook's."""

import numpy as np
import pytest
from scipy import stats

from robustok.studies.intervals import SeedNoise, mean_change, rank_difference


def test_the_pooled_spread_is_that_of_the_textbook():
    rows = [[1.0, 2.0], [5.0, 5.5, 4.0], [9.0]]
    residuals = [row - np.mean(row) for row in map(np.array, rows)]
    noise = SeedNoise.pooled(rows)
    assert noise.freedom == 3
    assert noise.deviation == pytest.approx(np.sqrt(sum((r**2).sum() for r in residuals) / 3))
    with pytest.raises(ValueError, match="at least two seeds"):
        SeedNoise.pooled([[1.0], [2.0]])


def test_two_rows_differ_as_students_test_says():
    """With two rows the pooled spread is that of the test of two samples."""
    a, b = [1.0, 1.4, 0.8], [2.0, 2.2, 1.7, 2.6]
    found = SeedNoise.pooled([a, b]).of_difference(a, b)
    low, high = stats.ttest_ind(a, b).confidence_interval(0.95)
    assert found == pytest.approx((np.mean(a) - np.mean(b), low, high))


def test_the_mean_of_changes_has_students_interval():
    changes = [-0.3, -0.1, 0.05, -0.2]
    low, high = stats.ttest_1samp(changes, 0).confidence_interval(0.95)
    assert mean_change(changes) == pytest.approx((np.mean(changes), low, high))
    assert mean_change(changes).has_zero and not mean_change([-0.3, -0.31, -0.29]).has_zero


def test_intervals_hold_what_is_true_19_times_of_20():
    """The mean of a row, and one more run of it, over 2000 studies of six rows with two seeds."""
    draw = np.random.default_rng(0)
    means = np.arange(6.0)
    held = np.zeros(2)
    for _ in range(2000):
        rows = means[:, None] + 0.3 * draw.normal(size=(6, 2))
        noise = SeedNoise.pooled(rows)
        mean, rerun = noise.of_mean(rows[2]), noise.of_rerun(rows[2])
        again = 2 + 0.3 * draw.normal()
        held += [mean.low <= 2 <= mean.high, rerun.low <= again <= rerun.high]
    assert np.abs(held / 2000 - 0.95).max() < 0.02  # four standard errors


def test_ranks_that_agree_better():
    target = np.arange(20.0)
    noisy = target + np.random.default_rng(1).normal(size=20) * 8
    found = rank_difference(target, target, noisy)
    assert found.value == pytest.approx(1 - stats.spearmanr(target, noisy).statistic)
    assert 0 < found.low < found.value < found.high
    assert rank_difference(target, noisy, noisy).has_zero


@pytest.mark.parametrize(("value", "half", "said"), [(1.2345, 0.05, "1.234 ± 0.050"), (12.3, 3.0, "12.3 ± 3.0")])
def test_it_shows_two_digits_of_what_is_not_known(value, half, said):
    from robustok.studies.intervals import SeedInterval

    assert str(SeedInterval(value, value - half, value + half)) == said
