"""Streaming moments and the Fréchet distance, against float64 definitions and the recorded distances of four tools."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from robustok.core.errors import UserError
from robustok.evaluation import FeatureStatistics, frechet_distance

from_moments = FeatureStatistics.from_moments


def statistics(rows) -> FeatureStatistics:
    return FeatureStatistics(rows.shape[1]).update(rows)


def assert_distance(a: FeatureStatistics, b: FeatureStatistics, expected: float) -> None:
    """Within 1e-6 relative, or 1e-7 of the traces where the value is near zero."""
    traces = float(a.covariance.trace() + b.covariance.trace())
    for found in (frechet_distance(a, b), frechet_distance(b, a)):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-7 * traces)


def test_moments_are_those_of_numpy_whatever_the_batches():
    rows = np.random.default_rng(0).normal(5, 2, (103, 7)).astype(np.float32)
    mean, covariance = rows.astype(float).mean(0), np.cov(rows.astype(float), rowvar=False)
    for sizes in ([103], [1] * 103, [0, 50, 3, 50], [102, 1]):
        found = FeatureStatistics(7)
        for part in torch.from_numpy(rows).split(sizes):
            found.update(part)
        assert found.count == 103
        np.testing.assert_allclose(found.mean, mean, rtol=1e-13)
        np.testing.assert_allclose(found.covariance, covariance, rtol=1e-12, atol=1e-13)


def test_far_from_zero_nothing_is_cancelled():
    rows = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near, far = statistics(rows).covariance, statistics(rows + 1e6).covariance
    assert torch.allclose(near, far, rtol=1e-8)  # 1e6 + x itself rounds at 1e-10; a sum of squares would lose all


def test_merge_is_one_pass_over_both():
    rows = torch.randn(90, 5, generator=torch.Generator().manual_seed(1)) * 3 + 1
    parts = [statistics(part) for part in rows.split(30)]
    merged = parts[0].merge(parts[1]).merge(FeatureStatistics(5)).merge(parts[2])
    whole = statistics(rows)
    assert merged.count == 90 and parts[1].count == 30
    assert torch.allclose(merged.mean, whole.mean, rtol=1e-13)
    assert torch.allclose(merged.covariance, whole.covariance, rtol=1e-12)


def test_what_was_read_or_given_does_not_change_later():
    given = torch.zeros(2, dtype=torch.float64)
    found = from_moments(given, torch.eye(2), 10)
    seen = found.mean
    with torch.inference_mode():
        found.merge(FeatureStatistics(2).update(torch.ones(5, 2)))
    found.update(torch.ones(5, 2))
    assert given.tolist() == seen.tolist() == [0, 0]
    assert found.mean.tolist() == [0.5, 0.5]


def test_merge_into_nothing():
    part = statistics(torch.arange(8.0).view(4, 2))
    assert torch.equal(FeatureStatistics(2).merge(part).covariance, part.covariance)


@pytest.mark.parametrize(
    ("case", "a", "b"),
    [
        ("generated_vs_real_float64_statistics", "features_generated", "features_real"),
        ("generated_vs_itself", "features_generated", "features_generated"),
        ("fewer_samples_than_dims", "few_a", "few_b"),
        ("fewer_samples_than_dims_vs_itself", "few_a", "few_a"),
        ("singular_duplicate_and_constant_columns", "singular_a", "singular_b"),
    ],
)
def test_recorded_distances_from_features(recorded, expected, case, a, b):
    value = expected["fid"][case]["torch_fidelity_eigvals"]["value"]
    assert_distance(statistics(recorded[a]), statistics(recorded[b]), value)


def test_recorded_distances_from_moments(recorded, expected):
    zero, one = torch.zeros(40, 40), torch.eye(40)
    a, b = (torch.from_numpy(recorded[name].mean(0)) for name in ("few_a", "few_b"))
    generated = statistics(recorded["features_generated"])
    mean, covariance = generated.mean, generated.covariance
    cases = {
        "zero_covariances_mean_only": (from_moments(a, zero, None), from_moments(b, zero, None)),
        "one_zero_covariance": (from_moments(a, zero, None), statistics(recorded["few_b"])),
        "tiny_isotropic_1e-12_vs_identity": (from_moments(a, one.double() * 1e-12, None), from_moments(a, one, None)),
        "generated_vs_shifted_by_0.5": (generated, from_moments(mean + 0.5, covariance, 600)),
        "generated_vs_scaled_x2": (generated, from_moments(2 * mean, 4 * covariance, 600)),
    }
    for case, (left, right) in cases.items():
        assert_distance(left, right, expected["fid"][case]["torch_fidelity_eigvals"]["value"])


def test_rank_one_covariances_have_a_closed_form(recorded):
    u, v, mean = (torch.from_numpy(recorded[k]) for k in ("rank1_u", "rank1_v", "rank1_v"))
    exact = float(u @ u + v @ v - 2 * (u @ v).abs())
    found = frechet_distance(from_moments(mean, torch.outer(u, u), None), from_moments(mean, torch.outer(v, v), None))
    assert found == pytest.approx(exact, rel=1e-12)


def commuting(values: Tensor, basis: Tensor, count: int | None = None) -> FeatureStatistics:
    return from_moments(torch.zeros(len(basis)), basis * values @ basis.T, count)


def test_commuting_covariances_have_a_closed_form():
    basis = torch.linalg.qr(torch.randn(30, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    a, b = torch.logspace(0, -14, 30, dtype=torch.float64), torch.linspace(0.1, 2, 30, dtype=torch.float64)
    exact = float((a.sqrt() - b.sqrt()).square().sum())
    assert_distance(commuting(a, basis), commuting(b, basis), exact)


def test_root_is_computed_once_and_forgotten_after_an_update():
    found = statistics(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))
    root = found.root()
    assert found.root() is root
    assert torch.allclose(root @ root.T, found.covariance)
    found.update(torch.ones(3, 4))
    assert torch.allclose(found.root() @ found.root().T, found.covariance)


def test_saved_and_loaded(tmp_path):
    found = statistics(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))
    found.save(tmp_path / "reference")
    again = FeatureStatistics.load(tmp_path / "reference")
    assert again.count == 20
    assert torch.equal(again.mean, found.mean)
    assert frechet_distance(found, again) == pytest.approx(0, abs=1e-14)


def test_adm_reference_has_pool_and_spatial_moments_and_no_count(tmp_path):
    path = tmp_path / "VIRTUAL.npz"
    np.savez(path, mu=np.ones(3), sigma=np.eye(3), mu_s=np.zeros(2), sigma_s=2 * np.eye(2))
    pool, spatial = FeatureStatistics.load(path), FeatureStatistics.load(path, spatial=True)
    assert (pool.dim, spatial.dim, pool.count) == (3, 2, None)
    assert torch.equal(spatial.covariance, 2 * torch.eye(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="count"):
        pool.update(torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [({"mu": np.ones(3)}, "sigma"), ({"mu": np.ones(3), "sigma": np.eye(2)}, "does not fit")],
)
def test_foreign_statistics_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        FeatureStatistics.load(tmp_path / "x.npz")


def test_wrong_features_are_refused():
    with pytest.raises(ValueError, match="expected \\(B, 4\\)"):
        FeatureStatistics(4).update(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="never called"):
        _ = FeatureStatistics(4).mean
    with pytest.raises(ValueError, match="at least two"):
        _ = statistics(torch.zeros(1, 4)).covariance
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(statistics(torch.full((3, 2), torch.nan)), statistics(torch.rand(3, 2)))
    with pytest.raises(ValueError, match="different features"):
        frechet_distance(statistics(torch.rand(3, 2)), statistics(torch.rand(3, 3)))


PROCESS = """
import sys, torch
from robustok.evaluation import FeatureStatistics
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
rows = torch.arange(42.0).view(14, 3) ** 1.5
part = rows[:10] if rank == 0 else rows[10:]
FeatureStatistics(3).update(part).merge_processes().save(f"{folder}/{rank}.npz")
torch.distributed.destroy_process_group()
"""


def test_processes_merge_to_the_moments_of_all_rows(tmp_path):
    commands = [[sys.executable, "-c", PROCESS, str(rank), str(tmp_path)] for rank in range(2)]
    for process in [subprocess.Popen(command) for command in commands]:
        assert process.wait(timeout=900) == 0  # it takes seconds; many where the cores are busy
    whole = statistics(torch.arange(42.0).view(14, 3) ** 1.5)
    found = [FeatureStatistics.load(tmp_path / f"{rank}.npz") for rank in range(2)]
    assert found[0].count == 14
    assert torch.equal(found[0].covariance, found[1].covariance)
    assert torch.allclose(found[0].covariance, whole.covariance, rtol=1e-12)


def test_a_state_gives_the_same_statistics_to_the_bit():
    rows = torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = FeatureStatistics(7).update(rows[:25])
    again = FeatureStatistics.from_state(first.state())
    assert first.state().shape == (8 * 9 // 2,)
    for statistics in (first, again):
        statistics.update(rows[25:])
    assert again.count == 40 and torch.equal(again.mean, first.mean) and torch.equal(again.covariance, first.covariance)
    torch.testing.assert_close(again.covariance, torch.cov(rows.T), rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="count"):
        FeatureStatistics.from_moments(torch.zeros(2), torch.eye(2), None).state()
