"""Sampling where some tokens are known beforehand (section 6): which are kept, and how the others are drawn.

No logits are needed for a known token. So all known tokens between two that are drawn go through the network in one
causal step, for each image by itself. There are as many rounds as the image with the most tokens to draw needs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.random import KEEP, keyed_words
from ..ops.vq.draws import threshold


def keep_mask(ratio: float, seed: int, sample_ids: Tensor, length: int) -> Tensor:
    """Which tokens are kept, bool (B, L), each with probability `ratio`; those of a smaller ratio are among them."""
    steps = torch.arange(length, device=sample_ids.device)
    return keyed_words(seed, KEEP, sample_ids[:, None], steps)[0] < threshold(ratio)


class KnownRuns(NamedTuple):
    """Runs of known tokens, at most one a sequence, that are appended in one causal step.

    All tensors are int64 on one device; R rows, one for each token.
    """

    sequences: Tensor  # (R,) whose token it is
    columns: Tensor  # (R,) its place in the run, from 0
    steps: Tensor  # (R,) row r is token steps[r] - 1 of its sequence
    last: Tensor  # (k,) rows that end a run: their logits are wanted
    longest: int  # length of the longest run
    reach: int  # largest of steps

    def doubled(self, count: int) -> "KnownRuns":
        """The same runs for sequences 0..count-1, and again for the next `count`."""
        rows = len(self.sequences)
        return KnownRuns(
            sequences=torch.cat([self.sequences, self.sequences + count]),
            columns=self.columns.repeat(2),
            steps=self.steps.repeat(2),
            last=torch.cat([self.last, self.last + rows]),
            longest=self.longest,
            reach=self.reach,
        )

    def to(self, device: torch.device) -> "KnownRuns":
        return KnownRuns(*(part.to(device) for part in self[:4]), self.longest, self.reach)


class Round(NamedTuple):
    """One draw in every image that has tokens left to draw: token steps[j] of image images[j]."""

    images: Tensor  # int64 (n,)
    steps: Tensor  # int64 (n,)
    runs: KnownRuns | None  # what goes through the network before it; None: nothing


def rounds(known: Tensor) -> Iterator[Round]:
    """The rounds for a mask bool (B, L), on the host, of the tokens that are known."""
    to_draw = [row.nonzero().flatten() for row in ~known]
    done = torch.zeros(len(known), dtype=torch.int64)  # how many tokens of each image have gone through
    for turn in range(max(map(len, to_draw), default=0)):
        images = torch.tensor([image for image, steps in enumerate(to_draw) if len(steps) > turn])
        steps = torch.stack([to_draw[image][turn] for image in images.tolist()])
        yield Round(images, steps, _runs(images, done[images], steps))
        done[images] = steps


def _runs(images: Tensor, first: Tensor, end: Tensor) -> KnownRuns | None:
    """Tokens first..end-1 of each image."""
    lengths = end - first
    if not lengths.any():
        return None
    ends = lengths.cumsum(0)
    columns = torch.arange(int(ends[-1])) - (ends - lengths).repeat_interleave(lengths)
    return KnownRuns(
        sequences=images.repeat_interleave(lengths),
        columns=columns,
        steps=first.repeat_interleave(lengths) + columns + 1,
        last=ends[lengths > 0] - 1,
        longest=int(lengths.max()),
        reach=int(end.max()),
    )
