"""How the Triton lookup decides: scores leave one pair of codes of nearly every row, and a list holds the rest."""

import numpy as np
import pytest
import torch

from robustok.ops.vq.backends.triton_backend import TritonBackend

from .table import make, order

if reason := TritonBackend().missing(torch.device("cpu")):
    pytest.skip(reason, allow_module_level=True)

from robustok.kernels import codes as kernel_codes
from robustok.kernels import nearest as kernel_nearest
from robustok.kernels import rows as kernel_rows
from robustok.kernels import select as kernel_select


class KeepsList:
    """Stands in for the kernel that decides the listed rows."""

    def __getitem__(self, grid):
        return self

    def __call__(self, tied, tied_count, **others):
        self.tied = tied[: int(tied_count)]


def normalized(z) -> torch.Tensor:
    """The rows (L, D) of z (1, L, D)."""
    u = torch.empty(z.shape[1:])
    kernel_rows.normalize_rows(z, 0, u, True)
    return u


def found_by_scores(monkeypatch, z, codebook) -> tuple[dict[int, list[int]], dict[int, int]]:
    """(row -> first codes of the one or two pairs in which its code is; row listed -> its lanes, a bit each)."""
    keeper, kept = KeepsList(), []
    monkeypatch.setattr(kernel_nearest, "_resolve_ties_kernel", keeper)
    monkeypatch.setattr(kernel_nearest, "settle", lambda u, codes, entries, group, out: kept.append(entries))
    u = normalized(z)
    kernel_nearest.nearest(u, kernel_codes.prepare(codebook, True, False), torch.empty(len(u), dtype=torch.int64))
    entries = {row: [base for base in bases if base < len(codebook)] for row, _, *bases in kept[0].tolist() if row >= 0}
    return entries, dict(keeper.tied.tolist())


def test_one_pair_of_codes_is_left_of_nearly_every_row(monkeypatch):
    z, codebook = make((1, 256, 64, 4096, 1))
    pairs, listed = found_by_scores(monkeypatch, z, codebook)
    assert len(listed) <= 3 and len(pairs) + len(listed) == 256
    assert sum(len(bases) == 2 for bases in pairs.values()) <= 20  # two float16 roundings leave about one row in thirty
    nearest = order(z, codebook)[:, 0]
    assert all(nearest[row] // 2 * 2 in bases for row, bases in pairs.items())


def test_where_more_pairs_are_near_the_lanes_are_listed(monkeypatch):
    z, codebook = make((1, 3, 8, 70, 1))
    codebook[[5, 20, 69]] = z[0, 0]  # 5 and 69 meet the same lane, one behind the other
    codebook[[7, 8]] = z[0, 1]
    pairs, listed = found_by_scores(monkeypatch, z, codebook)
    assert listed == {0: 1 << 2 | 1 << 10}
    assert pairs[1] == [6, 8] and len(pairs[2]) == 1


def test_codes_behind_others_in_their_lane_are_decided_by_the_definition():
    """Lane 2 holds the codes 4, 5, 68, 69, 132, ...: the nearest is equal to others of its lane and of another one."""
    torch.manual_seed(0)
    codebook = torch.randn(400, 8)
    z = torch.randn(1, 4, 8)
    codebook[[133, 197, 40]] = z[0, 0]  # equal: the lowest index
    codebook[[5, 69, 325]] = z[0, 1] + 1e-5 * torch.randn(3, 8)  # near: the nearest
    codebook[[6, 70, 134, 262, 326]] = z[0, 2] + 1e-4 * torch.randn(5, 8)
    out = torch.full((4,), -7)
    u = normalized(z)
    kernel_nearest.nearest(u, kernel_codes.prepare(codebook, True, False), out)
    assert out[0] == 40
    assert np.array_equal(out.numpy(), order(z, codebook)[:, 0])


def test_a_selection_finds_the_nearest_codes_by_the_way():
    """Also where three or more are the same, in one lane or in neighbouring ones, and at rank 0."""
    z, codebook = make((1, 7, 8, 200, 1))
    codebook[[5, 20, 69]] = z[0, 0]
    codebook[[43, 44, 45]] = z[0, 1]
    codebook[[190, 126, 62]] = z[0, 2]
    ranks = torch.tensor([0, 1, 2, 0, 3, 50, 199], dtype=torch.int32)
    found, nearest = (torch.full((7,), -1) for _ in range(2))
    kernel_select.select(normalized(z), kernel_codes.prepare(codebook, True, False), ranks, found, nearest)
    expected = order(z, codebook)
    np.testing.assert_array_equal(nearest, expected[:, 0])
    np.testing.assert_array_equal(found, expected[np.arange(7), ranks])
