"""Distances that few images can tell apart: against pairs and divisions taken one by one, and known distributions."""

from math import factorial

import numpy as np
import pytest
import torch

from robustok.evaluation import judging
from robustok.evaluation.intervals import Estimate
from robustok.evaluation.judging import (
    FoldedRows,
    distances_of_rows,
    unbiased_distances,
    unbiased_reconstructions,
    unbiased_samples,
)
from robustok.evaluation.metrics import extrapolated
from robustok.evaluation.metrics.extrapolated import ExtrapolatedDistance
from robustok.evaluation.metrics.frechet import frechet_distance
from robustok.evaluation.metrics.kernel import mmd, polynomial
from robustok.evaluation.metrics.moments import FeatureStatistics
from robustok.evaluation.metrics.registry import METRICS
from robustok.evaluation.metrics.sliced import SlicedDistance, mind
from robustok.evaluation.metrics.unbiased_kernel import UnbiasedKernelDistance
from robustok.evaluation.resampling import REPLICAS, draw
from robustok.evaluation.statistics import ImageStatistics

DRAW = np.random.default_rng(4)


def normal(rows: int, features: int, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(DRAW.normal(mean, std, (rows, features)))


def reconstructions(originals: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """Rows of N(mean, std²) that are much like standard normal originals."""
    return (0.9 * originals + 0.19**0.5 * normal(*originals.shape)) * std + mean


def inside(estimates: list[Estimate], truth: float) -> float:
    return np.mean([low <= truth <= high for low, high in (estimate.interval for estimate in estimates)])


def pairs(x: torch.Tensor, y: torch.Tensor, ids_x: torch.Tensor, ids_y: torch.Tensor | None) -> float:
    """Mean kernel value over all pairs, one by one, but those of an image with itself; ids None: there are none."""
    x, y = x.numpy(), y.numpy()
    ids_y = -1 - torch.arange(len(y)) if ids_y is None else ids_y
    kept = [(i, j) for i in range(len(x)) for j in range(len(y)) if ids_x[i] != ids_y[j]]
    return sum((x[i] @ y[j] / x.shape[1] + 1) ** 3 for i, j in kept) / len(kept)


@pytest.mark.parametrize(("paired", "sizes"), [(True, (13, 13)), (False, (13, 11))])
def test_the_kernel_distance_is_of_all_pairs_of_different_images(paired, sizes):
    """In the figure and in a replica, where images have been drawn twice."""
    x, y = normal(sizes[0], 3, 0.3), normal(sizes[1], 3)
    draws = draw(*sizes, paired=paired)
    found = UnbiasedKernelDistance(y, draws).of(x)
    assert len(found.replicas) == REPLICAS
    for line, value in ((0, float(found)), (5, float(found.replicas[4]))):
        of_x, of_y = draws.samples[line], draws.reference[line]
        a, b = x[of_x], y[of_y]
        across = pairs(a, b, of_x, of_y if paired else None)
        assert value == pytest.approx(pairs(a, a, of_x, of_x) + pairs(b, b, of_y, of_y) - 2 * across, rel=1e-10)
    if not paired:
        assert float(found) == pytest.approx(mmd(x, y, kernel=polynomial, unbiased=True), rel=1e-10)


def true_kernel_distance(mean: float, std: float) -> float:
    """Of N(mean, std²) from N(0, 1) in two independent features: the kernel is a polynomial, so moments say all."""
    of, reference = ([1, m, m**2 + s**2, m**3 + 3 * m * s**2] for m, s in ((mean, std), (0, 1)))
    terms = [(i, j) for i in range(4) for j in range(4 - i)]
    weight = {(i, j): 6 / (factorial(i) * factorial(j) * factorial(3 - i - j)) / 2 ** (i + j) for i, j in terms}
    return sum(weight[i, j] * (of[i] * of[j] - reference[i] * reference[j]) ** 2 for i, j in terms)


@pytest.mark.parametrize("paired", [True, False])
def test_the_kernel_interval_covers_the_known_distance(paired):
    """95 % wanted, in 200 trials of 100 rows; and of the change between two decoders."""
    draws, truths = draw(100, 100, paired=paired), [true_kernel_distance(*is_) for is_ in ((0.5, 1.2), (0.3, 1.0))]
    found, changes = [], []
    for _ in range(200):
        originals = normal(100, 2)
        of = originals if paired else normal(100, 2)
        before, after = (reconstructions(of, *is_) for is_ in ((0.5, 1.2), (0.3, 1.0)))
        distance = UnbiasedKernelDistance(originals, draws)
        found.append(distance.of(before))
        changes.append(distance.of(after).change_from(found[-1]))
    assert 0.88 <= inside(found, truths[0]) < 1
    assert 0.88 <= inside(changes, truths[1] - truths[0]) < 1
    assert abs(np.mean(found) - truths[0]) < 3 * np.std(found) / 200**0.5  # no bias


def test_the_extrapolated_distance_is_the_line_through_all_halves_and_thirds():
    x, y = normal(62, 4, 0.2), normal(55, 4)
    draws = draw(62, 55, paired=False)
    found = ExtrapolatedDistance(y, draws).of(x)
    for line, value in ((0, float(found)), (9, float(found.replicas[8]))):
        a, b = x[draws.samples[line]], y[draws.reference[line]]
        means = []
        for parts in (1, 2, 3):
            sides = [[rows[i * (len(rows) // parts) :][: len(rows) // parts] for i in range(parts)] for rows in (a, b)]
            moments = [[FeatureStatistics(4).update(rows) for rows in side] for side in sides]
            means.append(np.mean([frechet_distance(*both) for both in zip(*moments, strict=True)]))
        assert value == pytest.approx(np.polyfit([1, 2, 3], means, 1)[1], rel=1e-9)


def test_extrapolation_takes_the_bias_away():
    """300 rows of 32 features, 0.2 of a standard deviation apart in mean and in width."""
    truth, draws = 32 * (0.2**2 + 0.2**2), draw(300, 300, paired=False)
    sides = [(normal(300, 32, 0.2, 1.2), normal(300, 32)) for _ in range(6)]
    plain = np.mean([frechet_distance(*(FeatureStatistics(32).update(rows) for rows in side)) for side in sides])
    without = [ExtrapolatedDistance(y, draws).of(x) for x, y in sides]
    assert plain - truth > 1.5 and abs(np.mean(without) - truth) < 0.25
    assert inside(without, truth) == 1


@pytest.mark.parametrize("paired", [True, False])
def test_the_extrapolated_interval_covers_the_known_distance(paired):
    draws, found = draw(60, 60, paired=paired), []
    for _ in range(60):
        originals = normal(60, 3)
        made = reconstructions(originals if paired else normal(60, 3), 0.5, 1.2)
        found.append(ExtrapolatedDistance(originals, draws).of(made))
    truth = 3 * (0.5**2 + 0.2**2)
    assert inside(found, truth) >= 0.88
    assert np.mean([estimate.half_width for estimate in found]) < 1.5 * 1.98 * np.std(found)  # nor by being wide


def test_extrapolation_needs_rows_and_stands_features_that_say_nothing():
    rows = normal(40, 8)
    with_constant = torch.cat([rows, torch.ones(40, 1), rows[:, :1]], 1)[:, [0, 1, 2, 8, 9]]
    moved = with_constant + torch.tensor([0.1, 0, 0, 0.5, 0.1])
    constant = unbiased_distances({"": moved}, with_constant, paired=True)[""]["fd_inf"]
    assert float(constant) == pytest.approx(0.27, abs=1e-6)  # the shift alone
    assert "fd_inf" in distances_of_rows(normal(32, 8), normal(40, 8), paired=False)
    assert "fd_inf" not in distances_of_rows(normal(31, 8), normal(40, 8), paired=False)


def test_wide_features_are_extrapolated_without_an_interval(monkeypatch):
    x, y, draws = normal(40, 8, 0.2), normal(40, 8), draw(40, 40, paired=True)
    narrow = ExtrapolatedDistance(y, draws).of(x)
    monkeypatch.setattr(extrapolated, "WIDEST", 7)
    wide = ExtrapolatedDistance(y, draws).of(x)
    assert wide == narrow and wide.interval is None and narrow.interval is not None


def test_mind_of_one_feature_is_the_squared_distance_of_quantiles():
    """Both sides repeated until they are as many; with one feature every direction is plus or minus one."""
    x, y = normal(12, 1, 0.5, 2), normal(9, 1)
    repeated = [rows.flatten().sort().values.repeat_interleave(36 // len(rows)) for rows in (x, y)]
    assert mind(x, y) == pytest.approx(3 * float((repeated[0] - repeated[1]).square().mean()), rel=1e-12)
    many = [torch.special.ndtri((torch.arange(4000, dtype=torch.float64)[:, None] + 0.5) / 4000) for _ in range(2)]
    assert mind(many[0] * 1.5 + 1, many[1]) == pytest.approx(3 * (1 + 0.25), rel=1e-2)  # of the two normals, exactly


def test_mind_of_a_shift_is_three_times_its_square():
    rows, shift = normal(50, 6), torch.tensor([1.0, 0, 0, -2, 0, 0.5], dtype=torch.float64)
    assert mind(rows, rows) == 0
    assert mind(rows + shift, rows[torch.randperm(50)]) == pytest.approx(3 * 5.25, rel=0.05)
    with pytest.raises(ValueError, match="features"):
        mind(rows, rows[:, :2])


def test_mind_orders_growing_differences_as_the_frechet_distance_does():
    """Features that drift and spread: ten decoders, each worse than the one before."""
    reference, images = normal(200, 8), normal(200, 8)
    made = [images * (1 + 0.05 * level) + 0.1 * level for level in range(10)]
    against = FeatureStatistics(8).update(reference)
    frechet = [frechet_distance(FeatureStatistics(8).update(rows), against) for rows in made]
    assert np.argsort([mind(rows, reference) for rows in made]).tolist() == np.argsort(frechet).tolist()


def test_a_replica_of_mind_is_that_of_the_rows_drawn():
    x, y = normal(14, 3, 0.3), normal(10, 3)
    draws = draw(14, 10, paired=False)
    found = SlicedDistance(y, draws).of(x)
    for line in (1, 8):
        again = mind(x[draws.samples[line]], y[draws.reference[line]], 100)
        assert float(found.replicas[line - 1]) == pytest.approx(again, rel=1e-9)
    assert found == mind(x, y)


def test_distances_by_name_and_their_change_between_decoders():
    """Two decoders of the same latents differ by little: alone their intervals overlap, the change is beyond doubt."""
    reference, samples = normal(200, 4), normal(200, 4)
    decoded = [samples + 0.6, samples + 0.5]
    before, after = (distances_of_rows(rows.float(), reference.float(), paired=False) for rows in decoded)
    assert list(before) == ["fd", "fd_inf", "kd", "mind"]
    for name, value in before.items():
        change = after[name].change_from(value)
        assert after[name].interval[1] > value.interval[0] and change.interval[1] < 0, name
    both = unbiased_distances(dict(enumerate(decoded)), reference, paired=False)
    assert [float(found["kd"]) for found in both.values()] == pytest.approx([before["kd"], after["kd"]], rel=1e-4)
    with pytest.raises(ValueError, match="200 and 100 rows"):
        distances_of_rows(samples, reference[:100], paired=True)


def test_many_rows_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr("robustok.evaluation.judging.MOST_ROWS", 20)
    x, y = normal(40, 3), normal(60, 3)
    found = unbiased_distances({"": x}, y, paired=False)[""]
    assert found["mind"] == mind(x[::2], y[::3])


def test_figures_of_other_resampling_do_not_mix():
    folds, drawn = Estimate(1.0, torch.zeros(10)), unbiased_distances({"": normal(9, 2)}, normal(9, 2), paired=True)
    with pytest.raises(ValueError, match="bootstrapped"):
        folds.change_from(drawn[""]["kd"])


def test_rows_are_kept_while_they_are_few_and_narrow(monkeypatch):
    rows = normal(12, 3).float()
    kept = FoldedRows(3).update(rows[:5]).update(rows[5:])
    assert torch.equal(kept.rows(), rows) and torch.equal(kept.update(rows).rows(), torch.cat([rows, rows]))
    assert FoldedRows(3, widest=2).update(rows).rows() is None and FoldedRows(3).update(rows[:9]).rows() is None
    monkeypatch.setattr(judging, "MANY_IMAGES", 12)
    few, many = FoldedRows(3).update(rows[:11]), FoldedRows(3).update(rows[:11]).update(rows[11:])
    assert few.rows() is not None and many.rows() is None
    assert unbiased_samples(few, many) == {} and unbiased_reconstructions(many, [few], few) == ({}, {})


def test_evaluate_reports_them_of_fewer_than_50_000_images(monkeypatch):
    def statistics(rows: torch.Tensor, kept: int) -> ImageStatistics:
        return ImageStatistics("x", "toy", None, "none", FeatureStatistics(3).update(rows), features=rows[:kept])

    made, real = statistics(normal(30, 3), 30), statistics(normal(40, 3), 20)
    found = METRICS["unbiased"](made, real)
    assert {"fd"} | found.keys() == distances_of_rows(made.features, real.features, paired=False).keys()
    assert list(found) == ["fd_inf", "kd", "mind"]
    made.protocol = "inception-v3-tf2015/exact"
    assert list(METRICS["unbiased"](made, real)) == ["fid_inf", "kd", "mind"]
    assert METRICS["unbiased"](made, statistics(normal(40, 3), 9)) is None
    made.pool.count = 50_000
    assert METRICS["unbiased"](made, real) is None
