"""HOG against its definition, pixel by pixel with NumPy."""

import math

import numpy as np
import pytest
import torch

from robustok.models.frozen.hog import HOG_WIDTH, hog


def rendering(image: np.ndarray, grid: int) -> np.ndarray:
    """(grid**2, 108) of one image (3, S, S)."""
    size, cell = image.shape[-1], image.shape[-1] // (2 * grid)
    votes = np.zeros((grid, grid, 2, 2, 3, 9))
    for channel in range(3):
        for y in range(size):
            for x in range(size):
                right, left = image[channel, y, 1 + x if x + 1 < size else x - 1], image[channel, y, abs(x - 1)]
                below, above = image[channel, 1 + y if y + 1 < size else y - 1, x], image[channel, abs(y - 1), x]
                angle = math.atan2(below - above, right - left) % math.pi
                place = (y // cell // 2, x // cell // 2, y // cell % 2, x // cell % 2, channel)
                votes[(*place, min(int(angle / math.pi * 9), 8))] += math.hypot(right - left, below - above)
    length = np.linalg.norm(votes, axis=-1, keepdims=True)
    return (votes / np.maximum(length, 1e-12)).reshape(grid * grid, 108)


def test_hog_is_that_of_the_definition():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = hog(images, 2)
    assert found.shape == (2, 4, HOG_WIDTH)
    for image, histograms in zip(images, found, strict=True):
        np.testing.assert_allclose(histograms, rendering(image.double().numpy(), 2), atol=1e-5)


def test_plain_images_have_no_orientation_and_odd_cells_are_refused():
    assert hog(torch.zeros(1, 3, 16, 16), 4).abs().max() == 0
    with pytest.raises(ValueError, match="multiple of 2 cells a patch"):
        hog(torch.zeros(1, 3, 12, 12), 4)
