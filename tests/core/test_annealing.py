"""Annealing against values computed by hand."""

import pytest

from robustok.core.annealing import anneal_ratio


def test_ratio_ends_at_the_end_ratio_without_a_jump():
    just_before = anneal_ratio(120 - 1e-9, start=40, end=120, end_ratio=0.2)
    assert just_before == pytest.approx(anneal_ratio(120, start=40, end=120, end_ratio=0.2), abs=1e-9) == 0.2


def test_equal_start_and_end_is_a_step():
    assert [anneal_ratio(t, start=5, end=5, end_ratio=0.5) for t in (4.9, 5, 5.1)] == [1.0, 0.5, 0.5]
