"""Histograms of oriented gradients (Dalal and Triggs 2005), a target of masked training that needs no network."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.sizes import Size, say_size, sides

BINS = 9  # of the orientation, over half a turn
CELLS = 2  # along each side of a patch
CHANNELS = 3
HOG_WIDTH = CHANNELS * BINS * CELLS**2


def hog(images: Tensor, grid: Size) -> Tensor:
    """Images (B, 3, H, W) -> (B, P, HOG_WIDTH), patches row-major, as MaskFeat (arXiv 2112.09133) computes it.

    Central differences, with the border mirrored; each pixel adds the length of its gradient to the bin of its
    direction; the histogram of a cell has length 1 (0 where nothing changes). A patch's numbers are ordered (cell row,
    cell column, channel, bin). No gradient.
    Raises: ValueError where a patch has no whole cells.
    """
    (height, width), (rows, columns) = images.shape[2:], sides(grid)
    if height % (rows * CELLS) or width % (columns * CELLS):
        found = f"{say_size((height, width))} and {say_size(grid)} patches"
        raise ValueError(f"hog: image_size must be a multiple of {CELLS} cells a patch, found {found}")
    with torch.no_grad():
        x = F.pad(images.float(), (1, 1, 1, 1), mode="reflect")
        dx, dy = x[:, :, 1:-1, 2:] - x[:, :, 1:-1, :-2], x[:, :, 2:, 1:-1] - x[:, :, :-2, 1:-1]
        turn = torch.atan2(dy, dx) / math.pi  # (-1, 1]; opposite directions are one
        bins = (turn % 1.0 * BINS).long().clamp(max=BINS - 1)
        length, every = torch.hypot(dx, dy)[..., None], torch.arange(BINS, device=bins.device)
        votes = (bins[..., None] == every) * length  # (B, 3, H, W, BINS)
        cells = votes.unflatten(3, (columns, CELLS, -1)).unflatten(2, (rows, CELLS, -1)).sum((4, 7))
        histograms = F.normalize(cells, dim=-1)  # (B, 3, rows, CELLS, columns, CELLS, BINS)
        return histograms.permute(0, 2, 4, 3, 5, 1, 6).flatten(3).flatten(1, 2)
