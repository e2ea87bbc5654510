"""How good the averaged weights of a stage are while it trains: which checkpoint is the best, and when to stop."""

import math

import torch

from ..core import distributed
from .ema import EMA
from .resuming import StageState
from .run import Run
from .stages.base import Stage

HIGHER_IS_BETTER = ("psnr",)  # of all other figures lower is better


class Scores:
    """The figures of a stage's validation, now and then, and what follows from them."""

    def __init__(self, stage: Stage, ema: EMA, run: Run, steps_per_epoch: int):
        self._stage, self._ema, self._run, self._validation = stage, ema, run, stage.validation
        if self._validation is not None:
            self._every = max(1, round(self._validation.every_epochs * steps_per_epoch))

    def improve(self, state: StageState, last: bool) -> bool:
        """Measures the averaged weights where it is time to, and always at the last step. True where they are the best
        so far by the figure that chooses: `state` has them as the best then.

        Sets `state.stopped` when the best is too old. All processes must call this.
        """
        validation = self._validation
        if validation is None or not (last or state.step % self._every == 0):
            return False
        figures = self._measured(state.step)
        name = validation.keep_best_by
        if name not in figures:
            return False
        score = -figures[name] if name in HIGHER_IS_BETTER else figures[name]
        better = state.score is None or score < state.score
        if better:
            state.score, state.score_by, state.best = score, name, f"step-{state.step}"
        if validation.patience is not None:
            state.stopped = state.step - int(state.best.removeprefix("step-")) >= validation.patience * self._every
        return better

    def _measured(self, step: int) -> dict[str, float]:
        """The figures, as far as they are finite: averaged over the processes, and logged."""
        with self._ema.applied_to(self._stage.model):
            found = self._stage.validate()
        values = distributed.mean(torch.tensor(list(found.values()), dtype=torch.float64)).tolist()
        figures = {name: value for name, value in zip(found, values, strict=True) if math.isfinite(value)}
        self._run.log(self._stage.name, step, {f"validation_{name}": value for name, value in figures.items()})
        return figures
