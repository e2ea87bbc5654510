"""Rank correlations of two metrics, their intervals and their chance, against SciPy and against counting everything."""

import math
from itertools import permutations, product

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from robustok.core.errors import UserError
from robustok.evaluation.metrics.ranking import rank_agreement

PEERS = {"spearman": spearmanr, "kendall": kendalltau}


def quantile(values, share):
    """The least of equally likely values that `share` of them does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


@pytest.mark.parametrize("n", [4, 8, 12])
def test_coefficients_are_scipys_also_with_ties(n):
    draw = np.random.default_rng(n)
    x = draw.integers(0, 5, n).astype(float)
    x[:2] = 0, 4  # not all the same
    y = x + draw.integers(-2, 3, n)
    for name, found in rank_agreement(x, y).items():
        assert found.value == pytest.approx(PEERS[name](x, y).statistic, abs=1e-12)
        assert found.low <= found.value <= found.high and 0 < found.p <= 1


def test_few_points_are_counted_out():
    """All 5^5 resamples and all 5! orders, each with SciPy's coefficient."""
    x, y = [3.0, 1.0, 4.0, 1.0, 5.0], [2.0, 1.0, 5.0, 3.0, 4.0]
    found = rank_agreement(x, y)
    for name, coefficient in (("spearman", spearmanr), ("kendall", kendalltau)):
        known: dict[tuple, float] = {}
        values = []
        for rows in product(range(5), repeat=5):
            multiset = tuple(sorted(rows))
            if multiset not in known:
                a, b = (np.array(side)[list(multiset)] for side in (x, y))
                known[multiset] = coefficient(a, b).statistic if np.ptp(a) and np.ptp(b) else math.nan
            values.append(known[multiset])
        values = [round(value, 12) for value in values if not math.isnan(value)]
        expected = quantile(values, 0.025), quantile(values, 0.975)
        assert (found[name].low, found[name].high) == pytest.approx(expected, abs=1e-9)
        value = coefficient(x, y).statistic
        chance = [abs(coefficient(x, order).statistic) >= abs(value) - 1e-9 for order in permutations(y)]
        assert found[name].p == pytest.approx(np.mean(chance))


def test_a_perfect_order_of_four_is_no_proof():
    found = rank_agreement([1, 2, 3, 4], [10, 20, 30, 40])
    for agreement in found.values():
        assert agreement[:3] == pytest.approx((1, 1, 1)) and agreement.p == pytest.approx(2 / 24)


def test_draws_of_many_points_agree_with_counting(monkeypatch):
    from robustok.evaluation.metrics import ranking

    draw = np.random.default_rng(2)
    x = draw.normal(size=7)
    y = x + draw.normal(size=7)
    exact = rank_agreement(x, y)
    monkeypatch.setattr(ranking, "EXACT_POINTS", 6)
    drawn = rank_agreement(x, y, seed=1)
    assert drawn == rank_agreement(x, y, seed=1)
    for name, agreement in exact.items():
        assert drawn[name].value == agreement.value
        assert drawn[name].p == pytest.approx(agreement.p, abs=0.02)  # 4 deviations of 10,000 draws
        assert drawn[name].low == pytest.approx(agreement.low, abs=0.1)
        assert drawn[name].high == pytest.approx(agreement.high, abs=0.1)


def test_what_cannot_be_ranked():
    assert rank_agreement([1, 2, 3], [1, 2, 3]) is None  # too few
    with pytest.raises(ValueError, match="4 and 3"):
        rank_agreement([1, 2, 3, 4], [1, 2, 3])
    with pytest.raises(UserError, match="same value for all"):
        rank_agreement([1, 1, 1, 1], [1, 2, 3, 4])
