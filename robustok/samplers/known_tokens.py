"""Which tokens go through the network when, where a mask drawn up front says which of them are known (section 6).

A known token needs no logits. So each image goes from one token to be drawn to the next in one causal step, whatever
lies between, and every image at its own pace: as many rounds as the image with most tokens to draw has of them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Runs(NamedTuple):
    """Runs of known tokens of some streams. All int64, on one device; R rows, one for each token."""

    streams: Tensor  # (R,)
    columns: Tensor  # (R,) place in the run, from 0
    steps: Tensor  # (R,) row r is token steps[r] - 1
    last: Tensor  # (k,) rows that end a run: their logits are wanted
    longest: int  # length of the longest run
    reach: int  # largest of steps

    def doubled(self, streams: int) -> "Runs":
        """The same runs for streams 0..streams-1 and again for the next as many."""
        rows = len(self.streams)
        return Runs(
            torch.cat([self.streams, self.streams + streams]), self.columns.repeat(2), self.steps.repeat(2),
            torch.cat([self.last, self.last + rows]), self.longest, self.reach,
        )  # fmt: skip

    def to(self, device: torch.device) -> "Runs":
        return Runs(*(part.to(device) for part in self[:4]), self.longest, self.reach)


class Round(NamedTuple):
    """What is drawn next: token steps[j] of image images[j], after `runs` went through (None: nothing is between)."""

    images: Tensor
    steps: Tensor
    runs: Runs | None


def rounds(known: Tensor) -> Iterator[Round]:
    """The rounds for a mask bool (B, L) on the host of tokens that are known."""
    to_draw = [row.nonzero().flatten() for row in ~known]
    done = torch.zeros(len(known), dtype=torch.int64)  # tokens that went through
    for turn in range(max(map(len, to_draw), default=0)):
        images = torch.tensor([image for image, steps in enumerate(to_draw) if len(steps) > turn])
        steps = torch.stack([to_draw[image][turn] for image in images.tolist()])
        yield Round(images, steps, _runs(images, done[images], steps))
        done[images] = steps


def _runs(images: Tensor, first: Tensor, end: Tensor) -> Runs | None:
    """Tokens first..end-1 of each image."""
    lengths = end - first
    if not lengths.any():
        return None
    streams = images.repeat_interleave(lengths)
    ends = lengths.cumsum(0)
    columns = torch.arange(len(streams)) - (ends - lengths).repeat_interleave(lengths)
    steps = first.repeat_interleave(lengths) + columns + 1
    return Runs(streams, columns, steps, ends[lengths > 0] - 1, int(lengths.max()), int(end.max()))
