"""How the Triton selection decides high ranks: on twice as many lanes, and exactly, also where codes are the same."""

import numpy as np
import pytest
import torch

from robustok.ops.vq.backends.triton_backend import TritonBackend

from .table import make, order

if reason := TritonBackend().missing(torch.device("cpu")):
    pytest.skip(reason, allow_module_level=True)

from robustok.kernels import codes as kernel_codes
from robustok.kernels import rows as kernel_rows
from robustok.kernels import select as kernel_select
from robustok.kernels import select_top as kernel_select_top

DELTA = 360


@pytest.fixture
def launches(monkeypatch) -> list[dict]:
    """Arguments of the launches of the pass over the codebook."""
    found, launch = [], kernel_select_top.launch

    def kept(kernel, grid, **arguments):
        found.append(arguments)
        launch(kernel, grid, **arguments)

    monkeypatch.setattr(kernel_select_top, "launch", kept)
    return found


def select(z, codebook, ranks: list[int], similarity: str = "cosine", delta: int | None = DELTA) -> np.ndarray:
    """The codes (2, L) that the kernels find nearest and at these ranks, checked."""
    u = torch.empty(z.shape[1:])
    kernel_rows.normalize_rows(z, 0, u, similarity == "cosine")
    codes = kernel_codes.prepare(codebook, similarity == "cosine", similarity == "dot")
    nearest, out = torch.full((2, len(u)), -1)
    kernel_select.select(u, codes, torch.tensor(ranks, dtype=torch.int32), out, nearest, delta)
    expected = order(z, codebook, similarity)
    assert np.array_equal(nearest.numpy(), expected[:, 0])
    assert np.array_equal(out.numpy(), expected[np.arange(len(u)), ranks])


def test_high_ranks_are_decided_in_one_pass(launches):
    """64 lanes of eight scores would hide a code from most of these rows."""
    z, codebook = make((1, 13, 16, 2048, 1))
    ranks = [0, *range(220, 232)]
    select(z, codebook, ranks)
    select(z, codebook, ranks, delta=None)
    high, any_rank = launches
    assert high["BLOCK_K"] == 128 and int(high["listed_count"]) <= 2
    assert any_rank["BLOCK_K"] == 64 and int(any_rank["listed_count"]) >= 8


def test_codes_that_are_the_same_on_any_lanes(launches):
    z, codebook = make((1, 6, 8, 1024, 1))
    codebook[[71, 199, 327, 500]] = z[0, 1]  # lane 71 of three tiles of 128, and another
    codebook[[5, 69, 133]] = z[0, 2]  # lanes 5 and 69
    codebook[[126, 127, 254, 1023]] = z[0, 3]
    select(z, codebook, [0, 0, 1, 3, 200, 359])
    assert launches[0]["BLOCK_K"] == 128 and int(launches[0]["tied_count"]) >= 3


@pytest.mark.parametrize(("K", "similarity"), [(700, "cosine"), (1024, "l2"), (1024, "dot")])
def test_other_codebooks_stay_on_few_lanes(launches, K, similarity):
    """Those that do not fill four wide tiles, and rows of any length, whose tiles take more memory."""
    z, codebook = make((1, 3, 8, K, 1))
    select(z, codebook, [0, 7, 250], similarity)
    assert launches[0]["BLOCK_K"] == 64
