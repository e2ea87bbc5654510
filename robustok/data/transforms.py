"""Pixel ranges (uint8 and [-1, 1]), and the crops that bring an image of any size to the one wanted.

A size is a number of pixels, both sides of a square, or (height, width) (`core/sizes.py`).
Resizing is Pillow's throughout, as the published reference statistics were made with it: halving by box filter while
both sides are at least twice the target's, then one bicubic step. A plain bicubic step alone would alias.
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.sizes import Size, sides

MAX_ASPECT = 8  # longer side over shorter side
ROUNDING = "nearest"  # of pixels to whole numbers, by `to_uint8`


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] (clamped), any float dtype and shape, to uint8: round((x + 1) * 127.5). No gradient."""
    return ((images.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 images of any shape to float32 in [-1, 1]: x / 127.5 - 1, the inverse of `to_uint8`."""
    return images.float() / 127.5 - 1


def center_crop(image: Image.Image, size: Size) -> Image.Image:
    """Resized to cover `size` and no more, then its middle. The transform of evaluation."""
    height, width = sides(size)
    image = resize_to_cover(image, size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def random_crop(
    image: Image.Image,
    size: Size,
    *,
    words: tuple[int, int, int, int],
    crop_min: float,
    crop_max: float,
    flip: bool,
) -> Image.Image:
    """Random crop from a random resize, and a random flip: the transform of training (METHOD.md section 2).

    The image is resized to cover a larger size of the same shape, whose shorter side s is uniform over the whole
    numbers for which the crop keeps a share of it in [crop_min, crop_max] (the other side is rounded up); then the
    place of the crop is uniform, and with `flip` left and right swap with probability 1/2. All draws come from `words`,
    four random 32-bit words, so the result is a pure function of the arguments; with both shares 1 and an image of the
    wanted shape only the flip is random.
    """
    height, width = sides(size)
    shorter = min(height, width)
    smallest, largest = math.ceil(shorter / crop_max), math.ceil(shorter / crop_min)
    drawn = smallest + below(words[0], largest - smallest + 1)
    image = resize_to_cover(image, (-(-height * drawn // shorter), -(-width * drawn // shorter)))
    left, top = below(words[1], image.width - width + 1), below(words[2], image.height - height + 1)
    image = image.crop((left, top, left + width, top + height))
    if flip and below(words[3], 2):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


VIEWS = {"none": 1, "flip": 2, "tencrop": 10}


def fixed_views(image: Image.Image, size: Size, augment: str) -> list[Image.Image]:
    """The `VIEWS[augment]` crops of one image that pre-tokenisation stores, as the released generators were trained on.

    none: the centre crop. flip: it and its mirror image. tencrop: of a centre crop of int(1.1 * side) pixels the four
    corners and the middle (top left, top right, bottom left, bottom right, middle), then their mirror images.
    """
    if augment == "tencrop":
        height, width = sides(size)
        outer = center_crop(image, (int(1.1 * height), int(1.1 * width)))
        right, low = outer.width - width, outer.height - height
        corners = [(0, 0), (right, 0), (0, low), (right, low), (round(right / 2), round(low / 2))]
        views = [outer.crop((left, top, left + width, top + height)) for left, top in corners]
    else:
        views = [center_crop(image, size)]
    mirrored = [view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for view in views] if augment != "none" else []
    return views + mirrored


def resize_to_cover(image: Image.Image, size: Size) -> Image.Image:
    """The image in its own shape, as small as covers `size`: one side is equal, the other as long or longer (rounded).

    Of an image longer than `MAX_ASPECT` : 1 only the middle of that shape is resized: a strip of 1 x 10,000 pixels
    would otherwise grow to gigabytes.
    """
    height, width = sides(size)
    kept = tuple(min(length, MAX_ASPECT * min(image.size)) for length in image.size)
    if kept != image.size:
        left, top = (image.width - kept[0]) // 2, (image.height - kept[1]) // 2
        image = image.crop((left, top, left + kept[0], top + kept[1]))
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def below(word: int, n: int) -> int:
    """A 32-bit random word mapped to 0..n-1, uniform to within n / 2**32."""
    return (word * n) >> 32


def to_array(image: Image.Image) -> np.ndarray:
    """An RGB Pillow image as uint8 (3, height, width)."""
    return np.asarray(image).transpose(2, 0, 1)
