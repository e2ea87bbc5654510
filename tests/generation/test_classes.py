"""Which image of a large sample is of which class."""

import pytest
import torch

from robustok.core.errors import UserError
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
