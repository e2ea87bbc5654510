"""Sizes of images and of grids: an int is a square's side, a pair is (height, width)."""

from collections.abc import Sequence

Size = int | tuple[int, int]


def sides(size: Size | Sequence[int]) -> tuple[int, int]:
    """(height, width)."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def as_size(height: int, width: int) -> Size:
    """The one way to write a size: an int where both sides are equal. The inverse of `sides`."""
    return height if height == width else (height, width)


def area(size: Size) -> int:
    """Height times width."""
    height, width = sides(size)
    return height * width


def say_size(size: Size | Sequence[int]) -> str:
    """For people: "32 x 32"."""
    return " x ".join(map(str, sides(size)))
