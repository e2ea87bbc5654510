"""Sampling where some tokens are known beforehand (section 6): which are kept, and how the others are drawn.

No logits are needed for a known token. So all known tokens between two that are drawn go through the network in one
causal step, a round, for each image by itself. What every round does follows from the mask alone: all rounds are laid
out before the first, and go to the device in one copy.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.random import KEEP, keyed_words
from ..ops.vq.draws import threshold

LONGEST = 16  # tokens of one image in a round of a set size: what one tile of the attention takes
FILLED = 0.8  # share of images that still have tokens to draw, on average over such rounds


def keep_mask(ratio: float, seed: int, sample_ids: Tensor, length: int) -> Tensor:
    """Which tokens are kept, bool (B, L), each with probability `ratio`; those of a smaller ratio are among them."""
    steps = torch.arange(length, device=sample_ids.device)
    return keyed_words(seed, KEEP, sample_ids[:, None], steps)[0] < threshold(ratio)


class KnownRuns(NamedTuple):
    """Runs of known tokens, at most one a sequence, that are appended in one causal step.

    All tensors are int64 on one device; R rows, one for each token. A row may be there twice.
    """

    sequences: Tensor  # (R,) whose token it is
    columns: Tensor  # (R,) its place in the run, from 0
    steps: Tensor  # (R,) row r is token steps[r] - 1 of its sequence
    last: Tensor  # (k,) rows whose logits are wanted
    longest: int  # at least the length of the longest run
    reach: int  # at least the largest of steps


class Round(NamedTuple):
    """Known tokens that go through the network, and the draws after them, on one device.

    packed: int64 (3 rows + 3 draws,): sequences, columns and steps of the rows; then for each draw the row that it
    follows, its image, and the token of it that is drawn (L: none, it only fills up).
    """

    packed: Tensor
    rows: int
    draws: int
    longest: int
    reach: int

    def runs(self, streams: int, count: int) -> KnownRuns:
        """For sequences 0..count-1, and again for the next `count` where an image has two streams."""
        sequences, columns, steps, last, _, _ = self._parts
        both = torch.arange(streams, device=last.device)[:, None]
        return KnownRuns(
            sequences=(sequences + both * count).flatten(),
            columns=columns.repeat(streams),
            steps=steps.repeat(streams),
            last=(last + both * self.rows).flatten(),
            longest=self.longest,
            reach=self.reach,
        )

    @property
    def images(self) -> Tensor:
        """(draws,), which image each draw is for."""
        return self._parts[4]

    @property
    def drawn(self) -> Tensor:
        """(draws,), the step of each draw."""
        return self._parts[5]

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        return self.packed.split([self.rows] * 3 + [self.draws] * 3)


def rows_a_round(ratio: float, count: int) -> int:
    """How many tokens of `count` images a round of a set size takes if each is known with probability `ratio`.

    A draw brings 1 / (1 - ratio) tokens. With fewer there would be more rounds, with more many rows that only fill up.
    """
    return math.ceil(count * min(LONGEST, max(1.0, FILLED / max(1 - ratio, 1e-9))))


def rounds(known: Tensor, device: torch.device, rows: int | None = None) -> Iterator[Round]:
    """The rounds for a mask bool (B, L), on the host, of the tokens that are known; token 0 is known or drawn before.

    rows: every round has so many rows and B draws, so that one captured graph does them all; images with the most
    tokens left to draw come first, and what is missing is filled up. None: each as it is.
    """
    count, length = known.shape
    found, sizes = [], []
    for images, first, taken, draws in _schedule(known.numpy(), rows):
        ends = taken.cumsum()
        columns = np.arange(ends[-1]) - (ends - taken).repeat(taken)
        parts = [images.repeat(taken), columns, first.repeat(taken) + columns + 1]
        after = [ends[draws] - 1, images[draws], (first + taken)[draws]]
        longest, reach = int(taken.max()), int((first + taken).max())
        if rows is not None:
            parts = [np.pad(part, (0, rows - len(part)), "edge") for part in parts]
            filled = [(0, count - len(after[0]))]
            after = [np.pad(x, filled, constant_values=v) for x, v in zip(after, (0, 0, length), strict=True)]
            longest, reach = LONGEST, length - 1
        found += parts + after
        sizes.append((len(parts[0]), len(after[0]), longest, reach))
    if not found:
        return
    packed = torch.from_numpy(np.concatenate(found))
    packed = packed.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else packed
    pieces = packed.split([3 * (a + b) for a, b, _, _ in sizes])
    for piece, size in zip(pieces, sizes, strict=True):
        yield Round(piece, *size)


def _schedule(known: np.ndarray, rows: int | None) -> Iterator[tuple[np.ndarray, ...]]:
    """(images, first token, number of tokens, whether a draw follows) of the runs of every round."""
    count, length = known.shape
    places = np.where(known, length, np.arange(length))
    upcoming = np.full((count, length + 1), length)  # [b, i]: first unknown token of image b from i on; L: none
    upcoming[:, :-1] = np.minimum.accumulate(places[:, ::-1], 1)[:, ::-1]
    left = np.zeros((count, length + 1), np.int64)  # [b, i]: how many there are
    left[:, :-1] = (~known)[:, ::-1].cumsum(1)[:, ::-1]
    every, done = np.arange(count), np.zeros(count, np.int64)  # tokens of each image that have gone through
    while True:
        target = upcoming[every, np.minimum(done + 1, length)]
        taken = wanted = np.where(target < length, target - done, 0)
        if not wanted.any():
            return
        if rows is not None:
            taken = np.minimum(wanted, LONGEST)
            order = np.argsort(-left[every, np.minimum(done + 1, length)], kind="stable")
            before = taken[order].cumsum() - taken[order]
            taken[order] = np.clip(rows - before, 0, taken[order])
        images = taken.nonzero()[0]
        yield images, done[images], taken[images], (taken == wanted)[images]
        done = done + taken
