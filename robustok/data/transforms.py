"""Pixel ranges (uint8 and [-1, 1]), and the crops that bring an image of any size to S x S.

Resizing is Pillow's throughout, as the published reference statistics were made with it: halving by box filter while
the shorter side is at least twice the target, then one bicubic step. A plain bicubic step alone would alias.
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MAX_ASPECT = 8  # longer side over shorter side


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] (clamped), any float dtype and shape, to uint8: round((x + 1) * 127.5). No gradient."""
    return ((images.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 images of any shape to float32 in [-1, 1]: x / 127.5 - 1, the inverse of `to_uint8`."""
    return images.float() / 127.5 - 1


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Shorter side resized to `size` pixels, then the middle `size` x `size` square. The transform of evaluation."""
    image = resize_shorter(image, size)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def random_crop(
    image: Image.Image,
    size: int,
    *,
    words: tuple[int, int, int, int],
    crop_min: float,
    crop_max: float,
    flip: bool,
) -> Image.Image:
    """Random crop from a random resize, and a random flip: the transform of training (METHOD.md section 2).

    The shorter side is resized to s pixels, s uniform over the whole numbers for which a crop of `size` keeps a share
    of the side in [crop_min, crop_max]; then the place of the crop is uniform, and with `flip` left and right swap
    with probability 1/2. All draws come from `words`, four random 32-bit words, so the result is a pure function of the
    arguments; with both shares 1 and a square image only the flip is random.
    """
    smallest, largest = math.ceil(size / crop_max), math.ceil(size / crop_min)
    image = resize_shorter(image, smallest + below(words[0], largest - smallest + 1))
    left, top = below(words[1], image.width - size + 1), below(words[2], image.height - size + 1)
    image = image.crop((left, top, left + size, top + size))
    if flip and below(words[3], 2):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


VIEWS = {"none": 1, "flip": 2, "tencrop": 10}


def fixed_views(image: Image.Image, size: int, augment: str) -> list[Image.Image]:
    """The `VIEWS[augment]` crops of one image that pre-tokenisation stores, as the released generators were trained on.

    none: the centre crop. flip: it and its mirror image. tencrop: of a centre crop of int(1.1 * size) pixels the four
    corners and the middle (top left, top right, bottom left, bottom right, middle), then their mirror images.
    """
    if augment == "tencrop":
        outer = center_crop(image, int(1.1 * size))
        far = outer.width - size
        middle = round(far / 2)
        corners = [(0, 0), (far, 0), (0, far), (far, far), (middle, middle)]
        views = [outer.crop((left, top, left + size, top + size)) for left, top in corners]
    else:
        views = [center_crop(image, size)]
    mirrored = [view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for view in views] if augment != "none" else []
    return views + mirrored


def resize_shorter(image: Image.Image, side: int) -> Image.Image:
    """The image with its shorter side at `side` pixels and its shape kept (longer side rounded).

    Of an image longer than `MAX_ASPECT` : 1 only the middle of that shape is resized: a strip of 1 x 10,000 pixels
    would otherwise grow to gigabytes.
    """
    width, height = (min(length, MAX_ASPECT * min(image.size)) for length in image.size)
    if (width, height) != image.size:
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def below(word: int, n: int) -> int:
    """A 32-bit random word mapped to 0..n-1, uniform to within n / 2**32."""
    return (word * n) >> 32


def to_array(image: Image.Image) -> np.ndarray:
    """An RGB Pillow image as uint8 (3, height, width)."""
    return np.asarray(image).transpose(2, 0, 1)
