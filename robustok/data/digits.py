"""The data set of the demo: 1,797 real handwritten digits of 8 x 8 pixels, which ship with scikit-learn."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..core.errors import UserError

WORDS = ("digits", "sklearn:digits")  # for scikit-learn's digits where a path is expected


def means_digits(path: str | Path) -> bool:
    """Whether one of `WORDS` stands in the place of a path.

    Raises UserError for one that could be both: something in the current folder is called so.
    """
    if str(path) not in WORDS:
        return False
    if str(path) == WORDS[0] and Path(path).exists():
        raise UserError(
            f"{path}: may be scikit-learn's digits, or {Path(path).resolve()}; write {WORDS[1]} for the former and "
            f"./{path} for the latter"
        )
    return True


class Digits:
    """A source of images (see `images.ImageSource`): scikit-learn's digits, in its order, classes "0" to "9".

    The grey values 0..16 are stretched to 0..255 (round(v * 255 / 16)) and repeated over RGB; the crops of
    `transforms` then enlarge the 8 x 8 pixels to the wanted size by Pillow's bicubic filter.
    """

    kind = "digits"

    def __init__(self) -> None:
        from sklearn.datasets import load_digits  # takes a second to import: only for those who use the digits

        digits = load_digits()
        self.pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
        self.labels = digits.target.astype(np.int64)  # (1797,)
        self.names = [f"digit {index}" for index in range(len(self.labels))]
        self.problems: list[str] = []
        self.ignored: list[str] = []
        self.notes: list[str] = []
        self.class_names = [str(digit) for digit in range(10)]

    def read(self, index: int) -> Image.Image:
        """Digit `index` as an 8 x 8 RGB image."""
        return Image.fromarray(np.repeat(self.pixels[index, :, :, None], 3, axis=2))

    def read_bytes(self, index: int) -> bytes:
        """The pixels of digit `index`, by which duplicates are found."""
        return self.pixels[index].tobytes()
