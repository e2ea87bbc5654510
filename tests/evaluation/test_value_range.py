"""Images in another range than declared are found by what the tokenizer gives back under each range."""

import pytest
import torch

from robustok.data.pictures import sample_pictures
from robustok.evaluation.value_range import check_range


class Rounding:
    """A continuous tokenizer that gives back values of its true range to 1/32 of it, and none beyond it."""

    device = torch.device("cpu")

    def __init__(self, true, declared):
        self.true, self.declared = true, declared

    def encode(self, images):
        low, high = self.declared
        values = (low + (images + 1) / 2 * (high - low)).clamp(*self.true)
        step = (self.true[1] - self.true[0]) / 32
        return (values / step).round() * step

    def decode(self, z):
        low, high = self.declared
        return (z - low) / (high - low) * 2 - 1


@pytest.mark.parametrize("true", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("declared", [(-1.0, 1.0), (0.0, 1.0)])
def test_the_true_range_is_found(true, declared):
    found = check_range(Rounding(true, declared), sample_pictures(32), declared)
    assert found.best == true and not found.poor and found.fits is (true == declared)
    assert ("clearly better" in found.verdict()) is (true != declared)
    # steps of 255 / 32 levels, errors uniform in a step: 20 log10(255) - 10 log10(step**2 / 12)
    assert abs(found.psnr[true] - 40.9) < 1.0


def test_poor_in_every_range():
    tokenizer = Rounding((-1.0, 1.0), (-1.0, 1.0))
    tokenizer.decode = lambda z: torch.zeros_like(z)
    found = check_range(tokenizer, sample_pictures(32))
    assert found.poor and not found.fits and "poor in every range" in found.verdict()


def test_sample_pictures():
    pictures = sample_pictures(24)
    assert pictures.shape == (4, 3, 24, 24) and pictures.dtype == torch.uint8
    assert torch.equal(pictures[1], pictures[0].flip(-1)) and not torch.equal(pictures[2], pictures[0])
