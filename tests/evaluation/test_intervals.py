"""The jackknife over tenths: against means whose error is known, and against moments of the rows themselves."""

import numpy as np
import pytest
import torch

from robustok.evaluation.intervals import FOLDS, Estimate, FoldedStatistics, distance_of_rows, distances, recorded
from robustok.evaluation.metrics.frechet import frechet_distance
from robustok.evaluation.metrics.moments import FeatureStatistics

DRAW = np.random.default_rng(1)
ROWS, OTHERS = (torch.from_numpy(DRAW.normal(shift, 1 + shift, (47, 3))) for shift in (0, 1))


def folded(rows: torch.Tensor) -> FoldedStatistics:
    found = FoldedStatistics(3)
    for batch in rows.split([13, 1, 20, 13]):
        found.update(batch)
    return found


def moments(rows: torch.Tensor) -> FeatureStatistics:
    return FeatureStatistics(3).update(rows)


def test_the_interval_of_a_mean_is_students():
    folds = np.random.default_rng(0).normal(3, 2, FOLDS)
    left_out = torch.from_numpy((folds.sum() - folds) / (FOLDS - 1))
    half = 2.262 * folds.std(ddof=1) / FOLDS**0.5
    assert Estimate(folds.mean(), left_out).interval == pytest.approx([folds.mean() - half, folds.mean() + half])


def test_each_tenth_is_left_out_whatever_the_batches():
    """Of samples alone where the reference is fixed; of both sides where they are of the same images."""
    fixed, same = distances({"a": folded(ROWS)}, moments(OTHERS))["a"], distances({0: folded(ROWS)}, folded(OTHERS))[0]
    whole = frechet_distance(moments(ROWS), moments(OTHERS))
    assert [fixed, same] == pytest.approx([whole, whole], rel=1e-9)
    for fold in range(FOLDS):
        kept = torch.arange(47) % FOLDS != fold
        alone = frechet_distance(moments(ROWS[kept]), moments(OTHERS))
        both = frechet_distance(moments(ROWS[kept]), moments(OTHERS[kept]))
        assert [float(fixed.replicas[fold]), float(same.replicas[fold])] == pytest.approx([alone, both], rel=1e-9)
    assert distance_of_rows(ROWS, moments(OTHERS)).interval == pytest.approx(fixed.interval)


def test_what_moves_both_alike_is_no_change():
    noise = torch.from_numpy(DRAW.normal(0, 1, FOLDS))
    before, after = Estimate(2.0, 2 + noise), Estimate(2.5, 2.5 + noise)
    assert after.change_from(before).interval == pytest.approx([0.5, 0.5])
    assert before.interval[1] > after.interval[0]  # each by itself says nothing
    assert Estimate.mean([before, after]) == 2.25 and Estimate.mean([before, after]).interval[0] < 2.25
    record = recorded({"rfd": after, "psnr": 20.0}, {"rfd": before, "psnr": 19.0})
    assert list(record) == ["rfd", "rfd_interval", "rfd_change_interval", "psnr"] and record["rfd"] == 2.5
    assert record["rfd_change_interval"] == pytest.approx([0.5, 0.5])


def test_the_interval_covers_the_spread_of_other_draws():
    """95 % of draws of normal rows have an interval with the distance of the same number of rows in expectation."""
    draw, reference = np.random.default_rng(2), moments(OTHERS)
    found = [distance_of_rows(torch.from_numpy(draw.normal(1, 2, (200, 3))), reference) for _ in range(200)]
    centre = np.mean(found)
    inside = sum(low <= centre <= high for low, high in (estimate.interval for estimate in found))
    assert 180 <= inside <= 199  # 190 expected


def test_without_folds_there_is_no_interval():
    wide = FoldedStatistics(3, widest=2).update(ROWS)
    found = distances({"": wide}, FoldedStatistics(3, widest=2).update(OTHERS))[""]
    assert found == pytest.approx(frechet_distance(moments(ROWS), moments(OTHERS))) and found.interval is None
    assert len(wide.folds) == 1 and found.change_from(found).interval is None
    assert distance_of_rows(ROWS[:9], moments(OTHERS)).interval is None  # a fold without images
    assert Estimate.mean([found, Estimate(1.0, torch.zeros(FOLDS))]).interval is None
    assert recorded({"rfd": found}) == {"rfd": found, "rfd_interval": None}
