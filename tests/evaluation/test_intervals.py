"""The jackknife over tenths: against means whose error is known, and against moments of the rows themselves."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robustok.evaluation.intervals import FOLDS, FoldedFeatures, interval
from robustok.evaluation.metrics.frechet import frechet_distance
from robustok.evaluation.metrics.moments import FeatureStatistics


def test_the_interval_of_a_mean_is_students():
    folds = np.random.default_rng(0).normal(3, 2, FOLDS)
    left_out = torch.from_numpy((folds.sum() - folds) / (FOLDS - 1))
    low, high = interval(folds.mean(), left_out)
    half = 2.262 * folds.std(ddof=1) / FOLDS**0.5
    assert (low, high) == pytest.approx((folds.mean() - half, folds.mean() + half))


def test_each_tenth_is_left_out_whatever_the_batches():
    rows = torch.from_numpy(np.random.default_rng(1).normal(size=(47, 3)))
    reference = FeatureStatistics(3).update(torch.from_numpy(np.random.default_rng(2).normal(1, 2, (40, 3))))
    network = FoldedFeatures(lambda rows: SimpleNamespace(features=rows))
    for batch in rows.split([13, 1, 20, 13]):
        assert network(batch).features is batch
    for fold, found in enumerate(network.left_out(reference)):
        kept = rows[torch.arange(47) % FOLDS != fold]
        assert float(found) == pytest.approx(frechet_distance(FeatureStatistics(3).update(kept), reference), rel=1e-9)
