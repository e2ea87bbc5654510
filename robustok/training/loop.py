"""The one training loop: steps, averages, logs, checks, checkpoints. What learns and from what, the stage says.

Every random draw of a step comes from (seed, stage, step, process), so a resumed run repeats an uninterrupted one to
the bit on one kind of machine, and the only generator state a checkpoint needs is the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.reading import steps
from ..core import distributed
from ..core.errors import RunError
from ..core.progress import Progress
from ..core.random import derive_seed
from ..data.loader import Batch, batches, load_batch
from ..models.interfaces import Terms
from . import replay, resuming
from .ema import EMA
from .guard import IN_A_ROW, FiniteGuard, InterruptGuard, WatchedStep
from .optimizers import TrainedModule
from .parallel import without_averaging
from .run import Run
from .schedules import step_counts
from .scores import Scores
from .stages.base import Stage, StepPosition
from .utilisation import Utilisation, peak_of

# Figures of the log that are shown while a stage trains, where it has them.
SHOWN = ("loss", "reconstruction", "perceptual", "usage", "perturbed", "accuracy", "psnr")


def fit(stage: Stage, run: Run) -> Path:
    """Trains the stage from its newest checkpoint to its end and returns the checkpoint to use from now on.

    A step whose loss or gradient is not finite is left out. Raises RunError after three of them in a row, and before a
    checkpoint that would hold such a value; KeyboardInterrupt after Ctrl-C (with the state saved).
    """
    return Fit(stage, run).run_to_end()


class Fit:
    """The training of one stage, from its newest checkpoint to its end."""

    def __init__(self, stage: Stage, run: Run):
        self.stage, self.run = stage, run
        self.steps_per_epoch, self.total = step_counts(stage.training, len(stage.dataset))
        self.ema = EMA(stage.model, stage.training.ema)
        self.state = resuming.resume(stage, self.ema, run)
        self.guard = FiniteGuard()
        self.scores = Scores(stage, self.ema, run, self.steps_per_epoch)
        self._order_seed = derive_seed(run.config.seed, stage.name, "order")
        peak = peak_of(run.device, torch.bfloat16 if run.bfloat16 else torch.float32)
        self.utilisation = None if peak is None else Utilisation(run, stage.name, peak)
        self.last_time = time.monotonic()
        self.begins = not steps(run.folder / stage.name)
        run.forget_log_after(stage.name, -1 if self.begins else self.state.step)
        run.write_config()

    def run_to_end(self) -> Path:
        state, total = self.state, self.total
        if self.begins and self.scores.improve(state, last=False):
            self._save()
        progress = Progress(self.stage.name, total, start=state.step, unit="steps", interval=0)
        with InterruptGuard() as interrupt, progress:
            for batch in self._batches():
                terms = self._counted_step(batch)
                self.guard.watch(terms, state.step, batch)
                state.step += 1
                last, at_interval = state.step == total, state.step % self.run.config.log_every == 0
                if last or at_interval:
                    self._log(terms, progress)
                better = self.scores.improve(state, last)
                # asking the others costs a collective: not at every step of a fast device
                ask = at_interval or self.run.device.type == "cpu" or distributed.world() == 1
                interrupted = ask and distributed.any_process(interrupt.caught, self.run.device)
                if last or better or state.stopped or interrupted or state.step % self.stage.training.save_every == 0:
                    self._save()
                if interrupted:
                    raise KeyboardInterrupt(f"stopped: {self.stage.name} is saved at step {state.step} of {total}")
        chosen = self._finish()
        if distributed.any_process(interrupt.caught, self.run.device):
            raise KeyboardInterrupt(f"stopped: {self.stage.name} is finished")
        return chosen

    def _batches(self) -> Iterator[Batch]:
        """This process's part of every global batch, from the current step to the last one or an early stop."""
        while self.state.step < self.total and not self.state.stopped:
            epoch, start = divmod(self.state.step, self.steps_per_epoch)
            for batch in batches(
                self.stage.dataset,
                batch_size=self.stage.training.batch_size,
                seed=self._order_seed,
                epoch=epoch,
                start=start,
                rank=distributed.rank(),
                world=distributed.world(),
                augment=self.stage.augment,
                pin=self.run.device.type == "cuda",
            ):
                yield batch
                if self.state.step == self.total or self.state.stopped:
                    return

    def _counted_step(self, batch: Batch) -> Terms:
        if self.utilisation is None:
            return self._take_step(batch)
        step = self.state.step
        modules, before = (
            "+".join(trained.name for trained in self.stage.active(StepPosition(n, n / self.steps_per_epoch, 0)))
            for n in (step, step - 1)
        )
        return self.utilisation.count(modules, before if step else None, lambda: self._take_step(batch))

    def _take_step(self, batch: Batch) -> Terms:
        """One optimiser step of every active module; returns the terms, averaged over micro-batches."""
        stage, micro_batches = self.stage, self._begin(batch)
        position = micro_batches[0][1]
        self._start_anew(stage.begin_step(position))
        terms: Terms = {}
        for trained in stage.active(position):
            trained.optimizer.zero_grad(set_to_none=True)
            self._accumulate(trained, micro_batches, terms)
            terms[f"{trained.name}_grad_norm"] = trained.step(position.step)
        self._start_anew(stage.end_step(position))
        self.ema.update()
        return terms

    def _start_anew(self, replaced: dict[str, Tensor]) -> None:
        """Moments and averages of rows that the stage replaced, {parameter: bool mask over its first dimension}."""
        self.stage.trained[0].forget_rows(replaced)
        self.ema.restart_rows(self.stage.model, replaced)

    def _begin(self, batch: Batch) -> list[tuple[Batch, StepPosition]]:
        """The step's micro-batches, with the model and torch's generator set for it."""
        torch.manual_seed(derive_seed(self.run.config.seed, self.stage.name, self.state.step, distributed.rank()))
        self.stage.model.train()
        step, count = self.state.step, self.stage.training.accumulate
        size = len(batch.ids) // count
        first = distributed.rank() * len(batch.ids)
        return [
            (
                batch.part(m * size, (m + 1) * size).to(self.run.device),
                StepPosition(step, step / self.steps_per_epoch, first + m * size),
            )
            for m in range(count)
        ]

    def _accumulate(
        self, trained: TrainedModule, micro_batches: list[tuple[Batch, StepPosition]], terms: Terms
    ) -> None:
        """Gradients of the mean objective over the micro-batches; its terms are added to `terms`."""
        count = len(micro_batches)
        for m, (batch, position) in enumerate(micro_batches):
            with without_averaging(trained.module) if m + 1 < count else nullcontext():
                with self.run.autocast():
                    objective, found = self.stage.objective(trained, batch, position)
                objective = objective / count
                # a loss that is not finite makes all gradients so, and with them their norm, on every process
                objective.backward(torch.where(objective.isfinite(), torch.ones_like(objective), torch.nan))
            for name, value in found.items():
                terms[name] = terms.get(name, 0.0) + value.detach().float() / count

    def _check_finite(self) -> None:
        """Says which steps were left out. Raises RunError, beside a folder that tells of them, after three in a row."""
        bad = self.guard.check()
        self.state.skipped += sum(step.skipped for step in bad)
        for step in bad:
            done = "left out" if step.skipped else "taken"
            said = f"step {step.number} {done}: {', '.join(step.bad)} not finite ({self.state.skipped} left out so far)"
            self.run.event(self.stage.name, step.number + 1, "not_finite", said)
        if len(self.guard.streak) == IN_A_ROW:
            raise RunError(replay.write_bundle(self.stage, self.run, self.guard.streak, self._compute_again))

    def _compute_again(self, watched: WatchedStep) -> None:
        """A step's gradients, as they were computed for it; no step is taken, and the stage cannot go on afterwards."""
        epoch = watched.number // self.steps_per_epoch
        batch = load_batch(
            self.stage.dataset, watched.rows, seed=self._order_seed, epoch=epoch, augment=self.stage.augment
        )
        self.state.step = watched.number
        micro_batches = self._begin(batch)
        for trained in self.stage.active(micro_batches[0][1]):
            trained.optimizer.zero_grad(set_to_none=True)
            self._accumulate(trained, micro_batches, {})

    def _log(self, terms: Terms, progress: Progress) -> None:
        self._check_finite()
        values = distributed.mean(torch.stack([value.double() for value in terms.values()])).tolist()
        record = {name: value for name, value in zip(terms, values, strict=True) if math.isfinite(value)}
        if len(record) == len(terms):
            record |= self.stage.statistics(record)
        if self.state.skipped:
            record["skipped_steps"] = self.state.skipped
        record["lr"] = self.stage.trained[0].optimizer.param_groups[0]["lr"]
        record["epoch"] = self.state.step / self.steps_per_epoch
        self._count_seconds()
        record["seconds"] = round(self.state.seconds, 2)
        rate = progress.rate(self.state.step)
        record["images_per_second"] = rate * self.stage.training.batch_size
        share = self.utilisation and self.utilisation.share(rate)
        if share is not None:
            record["mfu"] = share
        self.run.log(self.stage.name, self.state.step, record)
        for name, text in self.stage.alarms(record).items():
            self.run.event(self.stage.name, self.state.step, name, text, once=True)
        figures = [f"{name} {record[name]:.4g}" for name in SHOWN if name in record]
        speed = f"{record['images_per_second']:.0f} images/s" + (
            f"  mfu {record['mfu']:.1%}" if "mfu" in record else ""
        )
        progress.show(self.state.step, text="  ".join([*figures, speed]))

    def _save(self) -> None:
        self._check_finite()
        self._count_seconds()
        resuming.save(self.stage, self.ema, self.state, self.run)

    def _finish(self) -> Path:
        self._count_seconds()
        folder = self.run.folder / self.stage.name
        chosen = self.state.best or steps(folder)[-1].name
        settings = self.run.settings(self.stage.sections)
        self.run.update_stage(
            self.stage.name, finished=True, best=chosen, seconds=round(self.state.seconds, 2), settings=settings
        )
        distributed.barrier()
        return folder / chosen

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self.state.seconds += now - self.last_time
        self.last_time = now
