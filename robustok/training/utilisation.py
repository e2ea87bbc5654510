"""Model-FLOP utilisation: the share of the device's own rate of matrix products that training reaches."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from .run import Run

T = TypeVar("T")
SIDE = 4096  # of the matrices whose product is timed: 0.14 TFLOP


class Utilisation:
    """Counts the arithmetic of a stage's steps: matrix products, convolutions and attention, forward and backward, of
    all networks.

    A step is counted where other modules take it than the one before, so by its number alone: what is counted is not
    compiled, and a resumed run must take the same steps to the bit. The counts stand in stage.json.
    """

    def __init__(self, run: Run, stage: str, peak: float):
        """peak: FLOP/s of this process's device."""
        self.peak, self._run, self._stage = peak, run, stage
        self._flops: dict[str, int] = run.stage_record(stage).get("flops", {})  # of a step, by the modules that take it
        self._of_last: int | None = None

    def count(self, modules: str, before: str | None, step: Callable[[], T]) -> T:
        """step(), which these modules take; before: the modules of the step before it, None for the first step."""
        if modules == before:
            result = step()
        else:
            with FlopCounterMode(display=False) as counter:
                result = step()
            self._flops = {**self._flops, modules: counter.get_total_flops()}
            self._run.update_stage(self._stage, flops=self._flops)
        self._of_last = self._flops.get(modules)
        return result

    def share(self, steps_per_second: float) -> float | None:
        """Of `peak`, at this rate of steps like the last one; None where none was counted."""
        return None if self._of_last is None else self._of_last * steps_per_second / self.peak


def peak_of(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s of products, the best of 20; None on a CPU, whose rate says little of a machine."""
    return product_rate(device, dtype, SIDE, 20) if device.type == "cuda" else None


def product_rate(device: torch.device, dtype: torch.dtype, side: int, times: int) -> float:
    """FLOP/s of the fastest of so many products of two random matrices (side, side)."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(1 + times):  # the first one warms up
        begin = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return 2 * side**3 / min(seconds[1:])
