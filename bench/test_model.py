"""What the cycle model makes of the kernels as they are: it must reach what can be asked of them without a GPU."""

from pathlib import Path

import pytest

from robustok.ops.decoding.step_linear import MOST_ROWS
from tests.scripts import printed_json

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def estimates(tmp_path_factory) -> dict[str, float]:
    """By the goal."""
    return printed_json(Path(__file__).with_name("model.py"), tmp_path_factory, "--json")


def test_sampling_reaches_its_rate(estimates):
    assert estimates["P6"] >= 310
    assert estimates["P7"] >= 430


@pytest.mark.parametrize("rows", [2, 8, MOST_ROWS])
@pytest.mark.parametrize("width", [768, 1024])
def test_linear_layers_are_fused_where_that_is_faster(estimates, width, rows):
    fused, apart = (estimates[f"linear layers, width {width}, {rows} rows, {name}"] for name in ("fused", "apart"))
    assert 0 < fused < 0.9 * apart


def test_a_lookup_is_made_in_time(estimates):
    assert estimates["P1"] <= 0.45


def test_codes_of_a_rank_are_selected_in_time(estimates):
    """A tenth of the images perturbed, and all of them, whose nearest codes one pass finds with the others."""
    assert estimates["P2"] <= 0.7
    assert estimates["P3"] <= 1.9


def test_a_table_of_neighbors_is_made_in_time(estimates):
    assert estimates["P4"] <= 0.15


@pytest.mark.parametrize("places", [129, 257])
@pytest.mark.parametrize("width", [48, 64])
def test_decode_attention_is_bound_by_memory(estimates, width, places):
    assert 0.88 <= estimates[f"P8, width {width}, {places} places"] <= 1


def test_terms_of_the_model_stand_alone(estimates):
    """A lookup is part of a perturbation, and perturbing all images takes longer than a tenth of them."""
    assert 0 < estimates["P1"] < estimates["P2"] < estimates["P3"]
