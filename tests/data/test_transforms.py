"""Pixel values against formulas worked out by hand or in float64."""

import numpy as np
import pytest
import torch
from PIL import Image

from robustok.data.transforms import (
    VIEWS,
    center_crop,
    fixed_views,
    from_uint8,
    random_crop,
    resize_to_cover,
    to_array,
    to_uint8,
)

FULL = (2**32 - 1,) * 4
ZERO = (0,) * 4


def picture(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, Image.Image]:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return pixels, Image.fromarray(pixels)


def test_uint8_round_trip_keeps_every_value():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(values)), values)
    assert from_uint8(values)[[0, 255]].tolist() == [-1.0, 1.0]


def test_to_uint8_rounds_and_clamps_as_the_formula_in_float64():
    x = torch.linspace(-1.2, 1.2, 1001, dtype=torch.float64)
    expected = np.clip(np.rint((x.numpy() + 1) * 127.5), 0, 255)
    found = to_uint8(x.float()).numpy()
    away_from_ties = np.abs((x.numpy() + 1) * 127.5 % 1 - 0.5) > 1e-4
    assert np.array_equal(found[away_from_ties], expected[away_from_ties])


def test_center_crop_halves_by_box_means():
    means = np.random.default_rng(1).integers(10, 240, (5, 5, 3))
    offsets = np.array([[-10, 4], [-4, 10]])  # sum to 0: the mean of a 2 x 2 box is exact
    pixels = (np.repeat(np.repeat(means, 2, 0), 2, 1) + np.tile(offsets, (5, 5))[..., None]).astype(np.uint8)
    assert np.array_equal(np.asarray(center_crop(Image.fromarray(pixels), 5)), means)


@pytest.mark.parametrize("height, width, top, left", [(6, 11, 0, 2), (9, 6, 1, 0), (6, 6, 0, 0)])
def test_center_crop_takes_the_middle(height, width, top, left):
    pixels, image = picture(height, width)
    assert np.array_equal(np.asarray(center_crop(image, 6)), pixels[top : top + 6, left : left + 6])


def test_extreme_shapes_keep_their_middle_and_stay_small():
    strip = np.zeros((10_000, 1, 3), np.uint8)
    strip[5_000] = 200  # bicubic gives a pixel's own value at its centre
    image = Image.fromarray(strip)
    assert resize_to_cover(image, 256).size == (256, 8 * 256)
    assert resize_to_cover(image.transpose(Image.Transpose.ROTATE_90), 256).size == (8 * 256, 256)
    found = np.asarray(center_crop(image, 256))
    assert found.shape == (256, 256, 3)
    assert found.max() > 190
    assert center_crop(Image.new("RGB", (1, 1), (9, 8, 7)), 16).getpixel((15, 0)) == (9, 8, 7)


def test_random_crop_reaches_both_ends_of_its_range():
    pixels, image = picture(20, 20)
    settings = {"crop_min": 0.8, "crop_max": 1.0, "flip": True}
    assert np.array_equal(np.asarray(random_crop(image, 16, words=(2**32 - 1, 0, 0, 0), **settings)), pixels[:16, :16])
    flipped = np.asarray(random_crop(image, 16, words=FULL, **settings))
    assert np.array_equal(flipped, pixels[4:, 4:][:, ::-1])
    smallest = image.resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(random_crop(image, 16, words=ZERO, **settings)), np.asarray(smallest))


def test_random_crop_without_range_is_the_center_crop_of_a_square():
    _, image = picture(50, 50)
    cropped = random_crop(image, 16, words=FULL, crop_min=1.0, crop_max=1.0, flip=False)
    assert np.array_equal(np.asarray(cropped), np.asarray(center_crop(image, 16)))


def test_fixed_views_are_corners_middle_and_mirrors():
    pixels, image = picture(22, 22)
    views = [np.asarray(view) for view in fixed_views(image, 20, "tencrop")]
    places = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]  # top, left
    expected = [pixels[top : top + 20, left : left + 20] for top, left in places]
    expected += [view[:, ::-1] for view in expected]
    assert len(views) == VIEWS["tencrop"]
    assert all(np.array_equal(view, wanted) for view, wanted in zip(views, expected, strict=True))
    plain, mirrored = fixed_views(image, 22, "flip")
    assert np.array_equal(np.asarray(plain), pixels)
    assert np.array_equal(np.asarray(mirrored), pixels[:, ::-1])


def test_to_array_is_channels_first():
    pixels, image = picture(3, 4)
    assert np.array_equal(to_array(image)[1], pixels[:, :, 1])
