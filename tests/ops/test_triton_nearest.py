"""How the Triton lookup decides: one product is enough for nearly every row, and a list holds the near ties."""

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


class KeepsList:
    """Stands in for the kernel that decides the listed rows."""

    def __getitem__(self, grid):
        return self

    def __call__(self, tied, tied_count, **others):
        self.tied = tied[: int(tied_count)]


def listed(monkeypatch, z, codebook) -> torch.Tensor:
    """(rows, 3) int64 of the list: row, and the two codes between which it stands, or its lanes, a bit each, and -1."""
    keeper = KeepsList()
    monkeypatch.setattr(kernel_nearest, "_resolve_ties_kernel", keeper)
    u = kernel_rows.normalize_rows(z, 0, z.shape[1], True)
    kernel_nearest.nearest(u, kernel_codes.prepare(codebook, True, False), torch.empty(len(u), dtype=torch.int64))
    return keeper.tied


def test_few_rows_are_listed_and_their_codes_are_the_nearest_two(monkeypatch):
    z, codebook = make((1, 256, 64, 4096, 1))
    found = listed(monkeypatch, z, codebook)
    assert 0 < len(found) <= 0.08 * z.shape[1]  # two float16 roundings leave about one row in thirty
    pairs = found[found[:, 2] >= 0]
    nearest_two = order(z[:, pairs[:, 0].long()], codebook)[:, :2]
    assert np.array_equal(np.sort(nearest_two, 1), np.sort(pairs[:, 1:].numpy(), 1))


def test_of_more_than_two_near_codes_the_lanes_are_listed(monkeypatch):
    z, codebook = make((1, 3, 8, 70, 1))
    codebook[[5, 20, 69]] = z[0, 0]  # 5 and 69 meet the same lane, one behind the other
    codebook[[7, 8]] = z[0, 1]
    found = {row: (first, last) for row, first, last in listed(monkeypatch, z, codebook).tolist()}
    assert found[0] == (1 << 5 | 1 << 20, -1)
    assert found[1] == (7, 8)
    assert 2 not in found


def test_codes_behind_others_in_their_lane_are_decided_by_the_definition():
    """Lane 5 holds the codes 5, 69, 133, ...: the nearest is equal to others of its lane and of another one."""
    torch.manual_seed(0)
    codebook = torch.randn(400, 8)
    z = torch.randn(1, 4, 8)
    codebook[[133, 197, 40]] = z[0, 0]  # equal: the lowest index
    codebook[[5, 69, 325]] = z[0, 1] + 1e-5 * torch.randn(3, 8)  # near: the nearest
    codebook[[6, 70, 134, 262, 326]] = z[0, 2] + 1e-4 * torch.randn(5, 8)
    out = torch.full((4,), -7)
    u = kernel_rows.normalize_rows(z, 0, 4, True)
    kernel_nearest.nearest(u, kernel_codes.prepare(codebook, True, False), out)
    assert out[0] == 40
    assert np.array_equal(out.numpy(), order(z, codebook)[:, 0])
