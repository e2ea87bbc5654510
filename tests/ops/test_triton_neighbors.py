"""How the Triton table of neighbours decides: scores name the candidates of most rows, and a list holds the others."""

import numpy as np
import pytest
import torch

from robustok.ops.vq.backends.triton_backend import TritonBackend

from .table import make, order

if reason := TritonBackend().missing(torch.device("cpu")):
    pytest.skip(reason, allow_module_level=True)

from robustok.kernels import neighbors as kernel_neighbors


class Watched:
    """A kernel whose launches' arguments are kept."""

    def __init__(self, kernel):
        self.kernel, self.calls = kernel, []

    def __getitem__(self, grid):
        def launch(**arguments):
            self.kernel[grid](**arguments)
            self.calls.append(arguments)

        return launch


@pytest.fixture
def launches(monkeypatch) -> dict[str, list[dict]]:
    """Arguments of the launches, by kernel."""
    names = ("_candidates_kernel", "_order_kernel", "_rest_kernel")
    watched = {name: Watched(getattr(kernel_neighbors, name)) for name in names}
    for name, kernel in watched.items():
        monkeypatch.setattr(kernel_neighbors, name, kernel)
    return {name.split("_")[1]: kernel.calls for name, kernel in watched.items()}


def left(launches) -> list[int]:
    """Numbers of the rows that all distances decide."""
    return sorted(n for call in launches["rest"] for n in call["listed"][: int(call["listed_count"])].tolist())


def check(z, codebook, delta, similarity="cosine"):
    found = TritonBackend().neighbors(z, codebook, delta, similarity)
    assert np.array_equal(found[0], order(z, codebook, similarity)[:, :delta])


def test_few_candidates_beyond_those_wanted_and_no_row_left(launches):
    z, codebook = make((1, 16, 64, 1024, 30))
    check(z, codebook, 30)
    (call,) = launches["order"]
    assert left(launches) == []
    assert (call["counts"] >= 30).all() and call["counts"].float().mean() <= 33


@pytest.mark.parametrize("similarity", ["cosine", "l2", "dot"])
def test_rows_that_scores_cannot_decide(launches, similarity):
    z, codebook = make((1, 6, 8, 1600, 20))
    codebook[:1200:64] = z[0, 1]  # 19 nearest of one lane, which keeps 12
    codebook[1201:1281] = z[0, 2]  # 80 equal ones, of which 20 are wanted
    z[0, 3, 5], z[0, 4, 0] = torch.nan, torch.inf
    check(z, codebook, 20, similarity)
    if similarity == "dot":  # other codes have larger products with the rows 1 and 2
        assert {3, 4} <= set(left(launches))
    else:
        assert left(launches) == [1, 2, 3, 4]


@pytest.mark.parametrize("similarity", ["cosine", "l2", "dot"])
def test_codes_that_are_not_finite_are_wanted_too(launches, similarity):
    z, codebook = make((1, 3, 4, 40, 30))
    codebook[5:20] = torch.nan
    check(z, codebook, 25, similarity)
    assert left(launches) == []
    check(z, codebook, 26, similarity)
    assert left(launches) == [0, 1, 2]


def test_more_neighbors_than_are_ordered_at_once(launches):
    z, codebook = make((1, 2, 4, 500, 497))
    check(z, codebook, 497)
    assert launches["candidates"] == [] and left(launches) == [0, 1]


def test_many_neighbors_are_wanted_of_more_lanes(launches):
    """64 lanes of twelve scores would hide a candidate of nearly every row."""
    z, codebook = make((1, 3, 16, 2048, 360))
    check(z, codebook, 360)
    (call,) = launches["candidates"]
    assert call["BLOCK_K"] == 128 and left(launches) == []


def test_rows_come_in_blocks_of_bounded_memory(launches, monkeypatch):
    monkeypatch.setattr(kernel_neighbors, "CANDIDATES", 32 * 5)
    z, codebook = make((1, 12, 4, 70, 9))
    check(z, codebook, 9)
    assert [call["found"].shape for call in launches["candidates"]] == [(5, 32), (5, 32), (2, 32)]


def test_codes_that_scores_cannot_tell_apart_are_candidates(launches):
    """Forty codes beside each other, twenty of them wanted: float16 mixes them up."""
    z, codebook = make((1, 4, 16, 500, 20))
    places = torch.randperm(500, generator=torch.Generator().manual_seed(1))[:40]
    codebook[places] = z[0, 0] + 0.3 * codebook[0] + 1e-5 * codebook[places]
    check(z, codebook, 20)
    (call,) = launches["order"]
    assert call["counts"][0] == 40 and left(launches) == []
