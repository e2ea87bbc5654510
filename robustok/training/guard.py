"""What may end a run early: values that are not finite, and Ctrl-C."""

import math
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..checkpoints.reading import steps
from ..core import distributed
from ..core.errors import RunError
from ..core.text import say, some_of
from ..data.loader import Batch

IN_A_ROW = 3  # steps skipped one after the other, after which a stage stops


class WatchedStep(NamedTuple):
    """A step whose terms were read."""

    number: int
    terms: dict[str, float]  # of the loss, and the norms of the gradients; averaged over the processes
    ids: Tensor  # int64 (B,), the images of this process's part of the batch
    rows: Tensor  # int64 (B,), their positions in the data set

    @property
    def bad(self) -> list[str]:
        """The terms that are not finite."""
        return [name for name, value in self.terms.items() if not math.isfinite(value)]

    @property
    def skipped(self) -> bool:
        """Whether a network was left as it was: a figure that no gradient comes from can be bad without that."""
        return any(name.endswith("_grad_norm") for name in self.bad)


class FiniteGuard:
    """Watches every step's loss terms and gradient norms without waiting for the device; `check` reads them.

    A step with a gradient that is not finite changed no weight (optimizers.py). The loop checks at its log interval and
    before every checkpoint.
    """

    def __init__(self) -> None:
        self.streak: list[WatchedStep] = []  # the newest steps, as far as they are bad
        self._pending: list[tuple[int, Tensor, Tensor, list[str], Tensor]] = []

    def watch(self, terms: Mapping[str, Tensor], step: int, batch: Batch) -> None:
        """Keeps what a step gave, on the device, until the next check."""
        values = torch.stack([value.double() for value in terms.values()])
        self._pending.append((step, batch.ids, batch.rows, list(terms), values))

    def check(self) -> list[WatchedStep]:
        """The bad steps since the last check, until `IN_A_ROW` came one after the other: these are `streak` then.

        All processes must call this: they get the same.
        """
        if not self._pending:
            return []
        values = distributed.mean(torch.cat([values for *_, values in self._pending])).tolist()
        bad = []
        for step, ids, rows, names, found in self._pending:
            watched = WatchedStep(step, dict(zip(names, values[: len(found)], strict=True)), ids, rows)
            del values[: len(found)]
            if not watched.bad:
                self.streak = []
            elif len(self.streak) < IN_A_ROW:
                self.streak = [*self.streak, watched]
                bad.append(watched)
            if len(self.streak) == IN_A_ROW:
                break
        self._pending.clear()
        return bad


def refuse_not_finite(tensors: Mapping[str, Mapping[str, Tensor]], folder: Path) -> None:
    """Raises RunError naming tensors of a checkpoint to be, {file stem: {name: tensor}}, that hold NaN or infinity.

    folder: the stage's, whose last checkpoint the message names.
    """
    named = {f"{stem}/{name}": tensor for stem, inside in tensors.items() for name, tensor in inside.items()}
    finite = [tensor.detach().isfinite().all() for tensor in named.values()]
    finite = torch.stack([flag.to(finite[0].device) for flag in finite]).tolist()  # read at once
    bad = [name for name, fine in zip(named, finite, strict=True) if not fine]
    if bad:
        raise RunError(f"{folder.name}: {some_of(bad, 5)} not finite: no checkpoint is written; {last_good(folder)}")


def last_good(folder: Path) -> str:
    """Which checkpoint a stage that stopped goes on from, for a message: none that is written holds NaN or infinity."""
    found = steps(folder)
    return f"the last good one is {found[-1]}" if found else "there is none yet, the stage begins anew"


class InterruptGuard:
    """Ctrl-C and SIGTERM set `caught`, so that the loop can finish its step and save; a second one ends at once."""

    def __enter__(self) -> "InterruptGuard":
        self.caught = False
        self._previous = {number: signal.signal(number, self._catch) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _catch(self, number: int, _frame) -> None:
        if self.caught:
            raise KeyboardInterrupt("stopped at once, without saving")
        self.caught = True
        if distributed.is_main():
            say("finishing the step and saving; once more to stop at once")
