"""What may end a run early: a value that is not finite, and Ctrl-C."""

import signal

import torch
from torch import Tensor

from ..core.errors import RunError


class FiniteGuard:
    """Watches every step's loss terms and gradient norms without waiting for the device; `check` reads the verdict.

    The loop checks at its log interval and before every checkpoint, so a checkpoint never holds a consequence of a
    non-finite value.
    """

    def __init__(self, stage: str):
        self.stage = stage
        self.pending: list[tuple[int, list[str], Tensor]] = []

    def watch(self, terms: dict[str, Tensor], step: int) -> None:
        self.pending.append((step, list(terms), torch.stack([value.isfinite() for value in terms.values()])))

    def check(self) -> None:
        """Raises RunError naming stage, step and terms if any watched value was not finite."""
        for step, names, finite in self.pending:
            bad = [name for name, fine in zip(names, finite.tolist(), strict=True) if not fine]
            if bad:
                raise RunError(
                    f"{self.stage}: {', '.join(bad)} not finite at step {step}; no checkpoint was written since. "
                    "Lower the learning rate or that term's weight; the same command resumes from the last checkpoint"
                )
        self.pending.clear()


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
        print("finishing the step and saving; once more to stop at once", flush=True)
