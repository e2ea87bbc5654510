"""Squared distances between rows of features: all of them bounded by fast products, a few taken in float64.

Of rows less a common centre |x - y|² = |x|² + |y|² - 2 x.y. The lengths are taken in float64, the products of rows
rounded to float16 on a GPU and to float32 on a CPU, with float32 sums. What rounding can have moved them by is known
beforehand: by Cauchy and Schwarz for the operands, a rounding of each term for the sums. So every distance lies between
two known numbers, and float64 is needed only where those leave a question open.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import UserError
from ...ops.vq.backends.torch_backend import product_roundoff

HELD = {"cpu": 2**17, "cuda": 2**25}  # numbers of one temporary: what the cache of a core holds, what fills a GPU
ROWS = 128  # at least so many of a product, whatever they take
GROUP = 16  # columns of scores of which at first only the least is looked at
EXTRA = 8  # columns beside the features: three for what is added to a product; tensor cores want multiples of 8
LONGEST = 64.0  # bound on the rows' lengths in their unit: float16 holds their squared distances


class Bounds(NamedTuple):
    """For each of N rows the m others with the least lower bounds, in their order."""

    low: Tensor  # (N, m) float64: the squared distance less the other's offset is at least this
    high: Tensor  # (N, m) float64: and at most this
    columns: Tensor  # (N, m) int64: which others


class RoundedRows(NamedTuple):
    """A set of rows and what bounds their distances."""

    rows: Tensor  # (N, D) as they came
    operand: Tensor  # (N or more, D + EXTRA) centred and rounded; rows beyond N are infinitely far away
    squares: Tensor  # (N,) float64, of the centred rows
    scales: Tensor  # (N,) float64, the squares that errors are relative to: none is near zero


class RowDistances:
    """Squared distances within and between sets of rows (N, D), of any floating dtype and on one device.

    Bounds hold for float32 products of any order of summation and for tensor cores that truncate. Besides the rows a
    rounded copy and HELD numbers are kept, and no N x M matrix.

    Args:
        sets: whose distances will be asked for; the mean of the first is the centre.
        count: of how many others `least` will be asked at most.
        dtype: of the products; None: float16 on a GPU, else float32.

    Raises UserError for NaN and infinity.
    """

    def __init__(self, *sets: Tensor, count: int, dtype: torch.dtype | None = None):
        self.device, D = sets[0].device, sets[0].shape[1]
        self.dtype = dtype or (torch.float16 if self.device.type == "cuda" else torch.float32)
        self.tile = max(1, HELD[self.device.type] // D)
        self.centre = sets[0].mean(0, dtype=torch.float64)
        squares = [torch.cat([self._centred(part).square_().sum(1) for part in rows.split(self.tile)]) for rows in sets]
        longest = float(torch.stack([values.max() for values in squares]).max())
        if not math.isfinite(longest):
            raise UserError("the features contain NaN or infinity: check the images and the weights of the network")
        self.rounding = 4 * (D + 4) * torch.finfo(torch.float64).eps * longest  # of a difference of two distances
        self.unit = 2.0 ** math.frexp(math.sqrt(longest))[1] / LONGEST
        rounding = torch.finfo(self.dtype)  # of the operands: relative, and of halves too small for all their bits
        moved = rounding.eps / 2 + D**0.5 * rounding.smallest_normal * rounding.eps / 2
        if self.dtype == torch.float32:
            moved += 1.01 * product_roundoff(self.device)
        sums = (D + EXTRA + 8) * 2.0**-23  # each term passes at most so many roundings
        self.error = 1.01 * (2 * moved + moved**2 + 2 * sums * (1 + moved) ** 2)  # relative to both rows' scales
        self.sets = [
            RoundedRows(rows, self._rounded(rows, count), of_rows, of_rows.clamp(min=self.unit**2))
            for rows, of_rows in zip(sets, squares, strict=True)
        ]

    def _centred(self, rows: Tensor) -> Tensor:
        return rows.to(torch.float64, copy=True).sub_(self.centre)

    def _rounded(self, rows: Tensor, count: int) -> Tensor:
        """The operand of rows, in self.unit."""
        N, D = rows.shape
        operand = torch.zeros(-(-(N + count) // GROUP) * GROUP, D + EXTRA, dtype=self.dtype, device=self.device)
        operand[N:, D] = torch.inf
        for part, into in zip(rows.split(self.tile), operand[:N, :D].split(self.tile), strict=True):
            into.copy_(self._centred(part).mul_(1 / self.unit))
        return operand

    def least(self, points: RoundedRows, others: RoundedRows, count: int, offsets: Tensor | None = None) -> Bounds:
        """Bounds on squared distances less `offsets` (M,), none below 0, of the `count` others that may be the nearest.

        Any other's are at least the last lower bound. A row is not among its own others within one set.
        """
        N, D = others.rows.shape
        offsets = torch.zeros_like(others.squares) if offsets is None else offsets
        slack = self.error * (others.scales + offsets)
        _write_parts((others.squares - offsets - slack) / self.unit**2, others.operand[:N, D:])
        found = []
        size = max(ROWS, HELD[self.device.type] // len(others.operand))
        for start in range(0, len(points.rows), size):
            block = points.operand[start : min(start + size, len(points.rows)), :D]
            scores = _products(torch.cat([block * -2, block.new_ones(len(block), EXTRA)], 1), others.operand)
            if points is others:
                scores.diagonal(start).fill_(torch.inf)
            found.append(_least_columns(scores, count))
        low, columns = (torch.cat(parts) for parts in zip(*found, strict=True))
        columns.clamp_(max=N - 1)  # where there are fewer others than that, whose bounds are infinite
        own = self.error * points.scales[:, None]
        low = low.double() * self.unit**2 + points.squares[:, None] - own
        return Bounds(low, low + 2 * (own + slack[columns]), columns)

    def of_pairs(self, points: RoundedRows, others: RoundedRows, rows: Tensor, columns: Tensor) -> Tensor:
        """Squared distances (P,) float64, each of one row from one other, by their numbers (P,)."""
        pairs = zip(rows.split(self.tile), columns.split(self.tile), strict=True)
        found = [points.rows[i].double().sub_(others.rows[j].double()).square_().sum(1) for i, j in pairs]
        return torch.cat(found) if found else self.centre.new_zeros(0)

    def of_rows(self, points: RoundedRows, others: RoundedRows, rows: Tensor) -> Tensor:
        """Squared distances (R, M) float64 of rows, by their numbers (R,), from all others."""
        x, found, size = self._centred(points.rows[rows]), [], max(ROWS, self.tile)
        for part, squares in zip(others.rows.split(size), others.squares.split(size), strict=True):
            sums = points.squares[rows, None] + squares
            found.append(torch.addmm(sums, x, self._centred(part).T, alpha=-2).clamp_(min=0))
        return torch.cat(found, 1)


def _write_parts(values: Tensor, columns: Tensor) -> None:
    """float64 values (N,) as the sum of three columns of fewer bits, the first three of `columns` (N, EXTRA)."""
    for part in columns.unbind(1)[:3]:
        part.copy_(values)
        values = values - part


def _products(x: Tensor, y: Tensor) -> Tensor:
    """x y^T, float32."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.mm(x, y.T, out_dtype=torch.float32) if x.is_cuda else x.float() @ y.float().T


def _least_columns(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` least of each row (B, C), in order, and their columns: they are in groups whose least are least."""
    groups = scores.unflatten(1, (GROUP, -1))  # columns far apart: their minima are those of whole vectors
    chosen = groups.amin(1).topk(min(count, groups.shape[2]), 1, largest=False, sorted=False).indices
    members = groups.gather(2, chosen[:, None].expand(-1, GROUP, -1)).flatten(1)
    least, places = members.topk(count, 1, largest=False)
    member, group = places // chosen.shape[1], places % chosen.shape[1]
    return least, member * groups.shape[2] + chosen.gather(1, group)
