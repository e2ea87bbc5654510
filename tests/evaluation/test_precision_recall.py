"""Precision and recall against recorded numbers of public code, and to the row against brute force in float64."""

from functools import partial

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from robustok.core.errors import UserError
from robustok.evaluation import precision_recall
from robustok.evaluation.metrics import row_distances
from robustok.evaluation.metrics.precision_recall import SPARE, inside, kth_distances
from robustok.evaluation.metrics.row_distances import RowDistances

from ..host_reads import reads_of

HALVES = [torch.float32, torch.float16]  # of the products on a CPU, and on a GPU


@pytest.fixture
def generated(recorded):
    return torch.from_numpy(recorded["features_generated"])


@pytest.fixture
def real(recorded):
    return torch.from_numpy(recorded["features_real"])


def small_tiles(monkeypatch):
    monkeypatch.setattr(row_distances, "HELD", {"cpu": 1000, "cuda": 1000})
    monkeypatch.setattr(row_distances, "ROWS", 7)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("small", [False, True])
def test_precision_and_recall_are_the_recorded_ones(generated, real, expected, k, small, monkeypatch, device):
    if small:
        small_tiles(monkeypatch)
    real, generated = real.to(device), generated.to(device)
    value = expected["precision_recall"][f"torch_fidelity_k{k}_full"]
    assert precision_recall(real, generated, k) == pytest.approx((value["precision"], value["recall"]), rel=1e-6)


def test_radii_are_adms(recorded, real):
    distances = RowDistances(real, count=3 + SPARE)
    radii = kth_distances(distances, *distances.sets, 3)
    np.testing.assert_allclose(radii, recorded["adm_radii_real_k3_float32"], rtol=2e-5)


def test_points_on_the_rim_count(generated, expected):
    value = expected["precision_recall"]["torch_fidelity_k3_first_half_vs_all_of_generated"]
    found = precision_recall(generated, generated[:300])
    assert found == pytest.approx((value["precision"], value["recall"]), rel=1e-6)
    assert precision_recall(generated, generated) == (1, 1)
    assert precision_recall(generated, generated + 100) == (0, 0)


def test_a_collapsed_generator_is_precise_and_recalls_nothing():
    draw = torch.Generator().manual_seed(0)
    real = torch.randn(400, 4, generator=draw)
    collapsed = 0.01 * torch.randn(300, 4, generator=draw)
    precision, recall = precision_recall(real, collapsed)
    assert precision > 0.95 and recall < 0.05


def normal(rows, width, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def two_clusters(rows, seed):
    """So tight that at the distance of their centre no bound tells their rows apart."""
    return 10 * (-1.0) ** torch.arange(rows)[:, None] + 1e-3 * normal(rows, 24, seed)


def with_outlier(rows):
    rows = rows.clone()
    rows[5] *= 1000
    return rows


PAIRS = {
    "few of few": (normal(4, 3), normal(5, 3, 1)),
    "normal": (normal(150, 24), normal(220, 24, 1)),
    "far from the origin": (normal(150, 24) + 3000, normal(130, 24, 1) + 3000),
    "large": (normal(150, 24).double() * 1e100, normal(150, 24, 1).double() * 1e100),
    "halves": (normal(150, 24).half(), normal(220, 24, 1).half()),
    "ties": (normal(150, 3).round(), normal(220, 3, 1).round()),
    "duplicates": (normal(13, 24).repeat(11, 1), torch.cat([normal(13, 24), normal(99, 24, 1)])),
    "outliers": (with_outlier(normal(150, 24)), with_outlier(normal(220, 24, 1))),
    "clusters": (two_clusters(150, 0), two_clusters(220, 1)),
    "one point": (torch.full((40, 24), 0.1), torch.full((50, 24), 0.1)),
    "two points": (torch.full((40, 24), 0.1), torch.full((50, 24), 0.3)),
}


def brute_force(real, fake, k):
    """Squared radii of both sets, and which fake and which real rows are inside a ball of the other set."""

    def between(x, y):
        return np.square(x.double().numpy()[:, None] - y.double().numpy()[None]).sum(-1)

    radii = []
    for rows in (real, fake):
        within = between(rows, rows)
        np.fill_diagonal(within, np.inf)
        radii.append(np.sort(within, 1)[:, k - 1])
    across, (of_real, of_fake) = between(fake, real), radii
    rim = 1 + 1e-11
    return *radii, (across <= of_real * rim).any(1), (across <= of_fake[:, None] * rim).any(0)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("dtype", HALVES)
def test_radii_and_decisions_are_those_of_brute_force(name, k, dtype, monkeypatch):
    small_tiles(monkeypatch)
    distances = RowDistances(*PAIRS[name], count=k + SPARE, dtype=dtype)
    real, fake = distances.sets
    of_real, of_fake, fake_inside, real_inside = brute_force(*PAIRS[name], k)
    radii = [kth_distances(distances, rows, k) for rows in (real, fake)]
    for found, expected in zip(radii, (of_real, of_fake), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=distances.rounding)
    of_real, of_fake = (found + distances.rounding for found in radii)
    assert np.array_equal(inside(distances, fake, real, of_real), fake_inside)
    assert np.array_equal(inside(distances, real, fake, of_fake), real_inside)


@pytest.mark.parametrize("dtype", HALVES)
def test_near_ties_that_float32_decides_wrongly(dtype):
    """Each fake row lies on one of the balls around real rows, or a 10⁻⁹ of its radius beyond it."""
    real, k = normal(150, 64).double(), 3
    radii = torch.from_numpy(brute_force(real, real, k)[0])
    away = torch.nn.functional.normalize(real, dim=1)  # no other ball is there
    beyond = torch.arange(150) % 2 == 1
    fake = real + away * radii.sqrt()[:, None] * (1 + 1e-9 * beyond.double())[:, None]
    alone = ~brute_force(real, fake, k)[2]
    assert alone[beyond].sum() > 30 and not alone[~beyond].any()

    distances = RowDistances(real, fake, count=k + SPARE, dtype=dtype)
    found = inside(distances, distances.sets[1], distances.sets[0], radii + distances.rounding)
    assert np.array_equal(found, ~alone)
    in_float32 = (torch.cdist(fake.float(), real.float()) <= radii.float().sqrt()).any(1).numpy()
    assert (in_float32 != ~alone).sum() > 20


def all_one_way(rows, width):
    """Coordinates that float16 and float32 round in one direction, in pairs of opposite rows whose mean is zero."""
    rounded_up = torch.full((rows, width), 1 + 2.0**-11 * 1.01 + 2.0**-24 * 1.01, dtype=torch.float64)
    return torch.cat([rounded_up, -rounded_up]) * (1 + torch.arange(2 * rows)[:, None] * 1e-5)


BOUNDED = PAIRS | {"one way": (all_one_way(40, 500),) * 2}


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("dtype", HALVES)
def test_every_distance_is_within_its_bounds(name, dtype):
    distances = RowDistances(*BOUNDED[name], count=10, dtype=dtype)
    real, fake = distances.sets
    exact = np.square(BOUNDED[name][1].double().numpy()[:, None] - BOUNDED[name][0].double().numpy()[None]).sum(-1)
    offsets = torch.linspace(0, 1, len(real.rows), dtype=torch.float64) * exact.max()
    bounds = distances.least(fake, real, min(10, len(real.rows)), offsets)
    low, high, columns = (values.numpy() for values in bounds)
    exact = exact - offsets.numpy()
    assert (low <= np.take_along_axis(exact, columns, 1) + distances.rounding).all()
    assert (high >= np.take_along_axis(exact, columns, 1) - distances.rounding).all()
    np.put_along_axis(exact, columns, np.inf, 1)
    assert (exact + distances.rounding >= low[:, -1:]).all()  # those that are not listed
    assert all((np.diff(np.sort(columns)) > 0).all(1))


def test_the_bound_of_halves_is_needed():
    """Where all coordinates are rounded one way, a third of it is too little."""
    rows = all_one_way(40, 500)
    distances = RowDistances(rows, count=10, dtype=torch.float16)
    distances.error /= 3
    low, high, columns = distances.least(*distances.sets * 2, 10)
    exact = distances.of_pairs(*distances.sets * 2, torch.arange(80).repeat_interleave(10), columns.flatten())
    assert ((exact.view(80, 10) < low) | (exact.view(80, 10) > high)).any()


@pytest.mark.parametrize("dtype", HALVES)
def test_few_distances_are_computed_in_float64(dtype, monkeypatch):
    counted = {"pairs": 0, "rows": 0}

    def counting(method, name, self, points, others, rows, *columns):
        counted[name] += len(rows)
        return method(self, points, others, rows, *columns)

    for name in counted:
        method = getattr(RowDistances, f"of_{name}")
        monkeypatch.setattr(RowDistances, f"of_{name}", lambda *a, m=method, n=name: counting(m, n, *a))
    monkeypatch.setattr("robustok.evaluation.metrics.precision_recall.RowDistances", partial(RowDistances, dtype=dtype))
    precision_recall(normal(700, 128), 1.02 * normal(900, 128, 1))
    assert 1600 <= counted["pairs"] <= 3 * 1600  # of 1600² + 700 x 900, and one a row at least for its radius
    assert counted["rows"] <= 16


class Largest(TorchDispatchMode):
    """Notes how many elements the largest tensor had that an operation gave."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor):
                self.found = max(self.found, value.numel())
        return result


def test_no_matrix_of_distances_is_held():
    with Largest() as largest:
        precision_recall(normal(1000, 4), normal(1500, 4, 1))
    assert 128 * 1000 <= largest.found <= 128 * 1520  # rows of a product; of 1000 x 1500 and 1500 x 1500


def test_the_device_is_waited_for_as_often_whatever_the_number_of_rows():
    pairs = [(normal(n, 8), normal(n, 8, 1)) for n in (200, 1500)]
    few, many = (reads_of(lambda pair=pair: precision_recall(*pair)) for pair in pairs)
    assert few == many and sum(few.values()) <= 12


def test_products_below_float32_change_nothing(real, generated):
    expected, before = precision_recall(real, generated), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert precision_recall(real, generated) == expected
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_callers_autocast_changes_nothing(real, generated):
    expected = precision_recall(real, generated)
    with torch.autocast("cpu", torch.bfloat16):
        assert precision_recall(real, generated) == expected


def test_halves_on_a_gpu_have_float32_products():
    with FakeTensorMode():
        x, y = torch.empty(5, 16, dtype=torch.half, device="cuda"), torch.empty(9, 16, dtype=torch.half, device="cuda")
        found = row_distances._products(x, y)
    assert found.dtype == torch.float32 and found.shape == (5, 9) and found.device.type == "cuda"


@pytest.mark.parametrize("name", PAIRS)
def test_both_figures_are_those_of_brute_force(name, device):
    _, _, fake_inside, real_inside = brute_force(*PAIRS[name], 3)
    found = precision_recall(*(rows.to(device) for rows in PAIRS[name]))
    assert found == (fake_inside.mean(), real_inside.mean())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(real, generated, value):
    generated = generated.clone()
    generated[7, 3] = value
    for pair in ((real, generated), (generated, real)):
        with pytest.raises(UserError, match="NaN or infinity"):
            precision_recall(*pair)


def test_sets_that_do_not_fit_are_refused(generated, real):
    with pytest.raises(ValueError, match="more than 3 rows"):
        precision_recall(real[:3], generated)
    with pytest.raises(ValueError, match=r"\(500, 64\) and \(600, 63\)"):
        precision_recall(real, generated[:, 1:])
