"""Which image is of which class, who holds a claim, what sampling costs."""

import pytest
import torch

from robustok.core.errors import UserError
from robustok.core.locks import claim
from robustok.generation.classes import class_list


def test_classes_in_equal_shares_and_sorted():
    assert class_list(50_000, 1000).bincount().tolist() == [50] * 1000
    assert class_list(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert class_list(4, 9, classes=[7, 2]).tolist() == [7, 7, 2, 2]


def test_classes_by_weight():
    assert class_list(10, 3, weights=[0.5, 0.3, 0.2]).bincount().tolist() == [5, 3, 2]
    counts = class_list(1000, 7, weights=[1, 2, 3, 4, 5, 6, 7]).bincount()
    assert (counts - 1000 * torch.arange(1, 8) / 28).abs().max() < 1
    assert class_list(3, 4, classes=[1, 3], weights=[0.0, 2.0]).tolist() == [3, 3, 3]


@pytest.mark.parametrize("arguments", [{"classes": [-1]}, {"classes": []}, {"weights": [1.0]}, {"weights": [0.0] * 5}])
def test_bad_classes(arguments):
    with pytest.raises(UserError):
        class_list(10, 5, **arguments)


def test_a_claim_is_held_until_it_is_closed(tmp_path):
    held = claim(tmp_path / "claims/00001")
    assert held is not None and claim(tmp_path / "claims/00001") is None
    assert claim(tmp_path / "claims/00002") is not None
    held.close()
    assert claim(tmp_path / "claims/00001") is not None


def test_cache_bytes(make_model):
    """Every new place reads all places up to itself, in both streams: counted one by one."""
    model = make_model(num_tokens=24)  # 2 layers, 32 wide, float32
    assert model.cache_bytes(2) == sum(2 * 2 * 2 * 32 * 4 * (place + 1) for place in range(25))
