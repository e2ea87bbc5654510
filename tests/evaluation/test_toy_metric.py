"""A metric is one function and one line of the registry: a toy one reaches the table, metrics.json and the report."""

import json

import numpy as np
import pytest
import torch

from robustok.evaluation import FeatureStatistics
from robustok.evaluation.metrics.registry import METRICS
from robustok.evaluation.statistics import ImageStatistics
from robustok.report.comparison import report_comparison


def mean_shift(samples: ImageStatistics, reference: ImageStatistics) -> dict[str, float] | None:
    """How far the mean of the features moved; None where the reference is of no known count."""
    if reference.count is None:
        return None
    return {"mean_shift": float((samples.pool.mean - reference.pool.mean).norm())}


@pytest.fixture
def sides():
    """Statistics of two sets of 40 features of width 3, and the features."""
    draw = np.random.default_rng(0)
    rows = [draw.normal(low, 1, (40, 3)) for low in (0.0, 2.0)]
    sides = [
        ImageStatistics(name, "toy", None, "none", FeatureStatistics(3).update(torch.from_numpy(r)))
        for name, r in zip("ab", rows, strict=True)
    ]
    return sides, rows


def test_a_registered_metric_is_reported(sides, tmp_path, monkeypatch, capsys):
    (samples, reference), (a, b) = sides
    monkeypatch.setitem(METRICS, "mean_shift", mean_shift)
    report_comparison(samples, reference, tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert list(found) == ["fd", "mean_shift"]
    assert found["mean_shift"] == pytest.approx(np.linalg.norm(a.mean(0) - b.mean(0)))
    assert f"{found['mean_shift']:.4f}" in capsys.readouterr().out
    assert "<td>mean_shift</td>" in (tmp_path / "report.html").read_text()


def test_a_metric_that_does_not_apply_is_left_out(sides, tmp_path, monkeypatch):
    (samples, reference), _ = sides
    monkeypatch.setitem(METRICS, "mean_shift", mean_shift)
    reference.pool.count = None
    assert list(report_comparison(samples, reference, tmp_path)) == ["fd"]
