"""Pixel values against formulas worked out by hand or in float64."""

from fractions import Fraction

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


SIZES = [16, (24, 16), (16, 24), (10, 40)]  # (height, width)
SHAPES = [(50, 61), (61, 50), (200, 70), (70, 200), (24, 16), (9, 7), (300, 20)]  # of the images


def covered(image: Image.Image, height: int, width: int) -> Image.Image:
    """Pillow by hand: halved by averages of four pixels while enough is left, then one bicubic step."""
    w, h = image.size
    while w >= 2 * width and h >= 2 * height:
        w, h = w // 2, h // 2
        image = image.resize((w, h), resample=Image.Resampling.BOX)
    if width * h >= height * w:  # the width decides
        w, h = width, round(h * (width / w))
    else:
        w, h = round(w * (height / h)), height
    return image.resize((w, h), resample=Image.Resampling.BICUBIC)


def shortened(image: Image.Image) -> Image.Image:
    """The middle of an image that is longer than 8 : 1."""
    w, h = image.size
    w, h = min(w, 8 * h), min(h, 8 * w)
    left, top = (image.width - w) // 2, (image.height - h) // 2
    return image.crop((left, top, left + w, top + h))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_crops_are_those_of_pillow_by_hand(shape, size):
    """To the bit, for squares and others, of images larger and smaller than they."""
    height, width = (size, size) if isinstance(size, int) else size
    _, image = picture(*shape)
    whole = np.asarray(covered(shortened(image), height, width))
    top, left = (whole.shape[0] - height) // 2, (whole.shape[1] - width) // 2
    centre = whole[top : top + height, left : left + width]
    assert np.array_equal(np.asarray(center_crop(image, size)), centre)

    plain, mirrored = fixed_views(image, size, "flip")
    assert np.array_equal(np.asarray(plain), centre) and np.array_equal(np.asarray(mirrored), centre[:, ::-1])

    draw = np.random.default_rng(1)
    for flip in (0, 1):
        words = tuple(int(word) for word in draw.integers(0, 2**32, 3))
        share = (0.8, 0.95)
        low, high = (int(np.ceil(min(height, width) / s)) for s in reversed(share))
        side = low + words[0] * (high - low + 1) // 2**32
        larger = [int(np.ceil(Fraction(x * side, min(height, width)))) for x in (height, width)]
        whole = np.asarray(covered(shortened(image), *larger))
        left = words[1] * (whole.shape[1] - width + 1) // 2**32
        top = words[2] * (whole.shape[0] - height + 1) // 2**32
        expected = whole[top : top + height, left : left + width]
        settings = {"words": (*words, flip << 31), "crop_min": share[0], "crop_max": share[1], "flip": True}
        found = np.asarray(random_crop(image, size, **settings))
        assert np.array_equal(found, expected[:, ::-1] if flip else expected)


def test_ten_crops_of_a_tall_size():
    pixels, image = picture(22, 11)
    views = [np.asarray(view) for view in fixed_views(image, (20, 10), "tencrop")]
    places = [(0, 0), (0, 1), (2, 0), (2, 1), (1, 0)]  # top, left
    assert all(np.array_equal(v, pixels[y : y + 20, x : x + 10]) for v, (y, x) in zip(views, places, strict=False))


def test_to_array_is_channels_first():
    pixels, image = picture(3, 4)
    assert np.array_equal(to_array(image)[1], pixels[:, :, 1])
