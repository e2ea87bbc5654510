"""The one training loop. A stage says which networks learn, on what data and from which losses.

Every random draw of a step comes from (seed, stage, step, process), so a resumed run repeats an uninterrupted one to
the bit on one kind of machine, and the only generator state a checkpoint needs is the step.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config import StoppingConfig, TrainingConfig
from ..data.images import Split
from ..data.loader import Batch, batches
from ..ops.philox import derive_seed
from . import checkpoints, distributed
from .ema import EMA
from .guard import FiniteGuard, InterruptGuard
from .progress import Progress
from .run import Run


@dataclass
class Player:
    """One network that learns: what is called in training (`module`), its optimiser, its rate at a step."""

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    clip_norm: float | None = None


@dataclass(frozen=True)
class When:
    """The place of a micro-batch: optimiser step, time in epochs, and the number of images of the step before it."""

    step: int
    epoch: float
    offset: int


class Stage(ABC):
    """What differs between stages."""

    name: str  # folder of the run and name in the log
    sections: str  # key of run.SECTIONS
    kind: str  # of model that a checkpoint holds: tokenizer, rar, classifier
    model: nn.Module
    training: TrainingConfig
    split: Split
    players: list[Player]
    augment: bool = True
    stopping: StoppingConfig | None = None

    @abstractmethod
    def objective(self, player: Player, batch: Batch, when: When) -> tuple[Tensor, dict[str, Tensor]]:
        """(scalar to differentiate, loss terms to watch and log) of one micro-batch for one player."""

    @abstractmethod
    def model_config(self) -> dict:
        """Settings from which `load_*` rebuilds the model."""

    def active(self, when: When) -> list[Player]:
        """The players that move at this step, in order."""
        return self.players

    def begin_step(self, when: When) -> list[str]:
        """Called before each step; returns the names of parameters that it replaced (the tokenizer's codebook)."""
        return []

    def statistics(self) -> dict[str, float]:
        """Figures for the log beside the loss terms."""
        return {}

    def extra_state(self) -> dict[str, Tensor]:
        """Tensors beside modules and optimisers that a resumed run needs; they are loaded in place."""
        return {}

    def score(self) -> float:
        """Held-out score of the model as it stands, lower is better; called where `stopping` is set."""
        raise NotImplementedError


def wrap(module: nn.Module, run: Run) -> nn.Module:
    """The module as the loop calls it: blocks compiled where asked, gradients averaged where processes are several."""
    if run.config.compile:
        for name, blocks in module.named_modules():
            if name.rpartition(".")[2] == "blocks":  # one compiled block serves all of its kind
                for block in blocks:
                    block.compile()
    if distributed.world() == 1:
        return module
    # buffers are the same on all processes already: they change only with the parameters
    return DistributedDataParallel(module, broadcast_buffers=False)


def fit(stage: Stage, run: Run) -> Path:
    """Trains the stage from its newest checkpoint to its end and returns the checkpoint to use from now on.

    Raises RunError on a non-finite loss or gradient (before any checkpoint is written) and KeyboardInterrupt after
    Ctrl-C (with the state saved).
    """
    return _Fit(stage, run).run_to_end()


class _Fit:
    def __init__(self, stage: Stage, run: Run):
        self.stage, self.run = stage, run
        self.folder = run.folder / stage.name
        self.ema = EMA(stage.model, stage.training.ema)
        self.steps_per_epoch = len(stage.split) // stage.training.batch_size
        self.total = max(1, round(stage.training.epochs * self.steps_per_epoch))
        self.best: dict = {"best": None, "score": None, "checked": None}
        self.seconds_before = 0.0
        self.step = self._resume()
        self.started = time.monotonic()

    def run_to_end(self) -> Path:
        stage, run = self.stage, self.run
        guard = FiniteGuard(stage.name)
        with InterruptGuard() as interrupt, Progress(stage.name, self.step, self.total) as progress:
            for batch in self._batches():
                terms = self._take_step(batch)
                guard.watch(terms, self.step)
                self.step += 1
                last = self.step == self.total
                if last or self.step % run.config.log_every == 0:
                    guard.check()
                    self._log(terms, progress)
                stop = self._check_stopping(guard, last)
                interrupted = (
                    distributed.any_process(interrupt.caught, run.device)
                    if run.device.type == "cpu" or (self.step % run.config.log_every == 0)
                    else False
                )
                if last or stop or interrupted or self.step % stage.training.save_every == 0:
                    guard.check()
                    self._save()
                if interrupted:
                    raise KeyboardInterrupt(
                        f"stopped: {stage.name} is saved at step {self.step}; the same command resumes"
                    )
                if stop:
                    break
        return self._finish()

    def _batches(self) -> Iterator[Batch]:
        """This process's part of every global batch from the current step to the last one."""
        while self.step < self.total:
            yield from batches(
                self.stage.split,
                batch_size=self.stage.training.batch_size,
                seed=derive_seed(self.run.config.seed, self.stage.name, "order"),
                epoch=self.step // self.steps_per_epoch,
                start=self.step % self.steps_per_epoch,
                rank=distributed.rank(),
                world=distributed.world(),
                augment=self.stage.augment,
            )

    def _take_step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step of every active player; returns the terms, averaged over micro-batches."""
        stage, count = self.stage, self.stage.training.accumulate
        torch.manual_seed(derive_seed(self.run.config.seed, stage.name, self.step, distributed.rank()))
        local = stage.training.batch_size // distributed.world()
        micro = local // count
        places = [
            When(self.step, self.step / self.steps_per_epoch, distributed.rank() * local + m * micro)
            for m in range(count)
        ]
        parts = [batch.part(m * micro, (m + 1) * micro).to(self.run.device) for m in range(count)]
        stage.model.train()
        self.ema.restart(stage.model, stage.begin_step(places[0]))
        terms: dict[str, Tensor] = {}
        for player in stage.active(places[0]):
            for group in player.optimizer.param_groups:
                group["lr"] = player.rate(self.step)
            player.optimizer.zero_grad(set_to_none=True)
            for m, (part, when) in enumerate(zip(parts, places, strict=True)):
                wait = m + 1 < count and isinstance(player.module, DistributedDataParallel)
                with player.module.no_sync() if wait else nullcontext():
                    with self.run.autocast():
                        objective, found = stage.objective(player, part, when)
                    (objective / count).backward()
                for name, value in found.items():
                    terms[name] = terms.get(name, 0.0) + value.detach().float() / count
            parameters = [p for group in player.optimizer.param_groups for p in group["params"]]
            terms[f"{player.name}_grad_norm"] = nn.utils.clip_grad_norm_(parameters, player.clip_norm or float("inf"))
            player.optimizer.step()
        self.ema.update()
        return terms

    def _log(self, terms: dict[str, Tensor], progress: Progress) -> None:
        values = distributed.mean(torch.stack([value.double() for value in terms.values()])).tolist()
        record = dict(zip(terms, values, strict=True)) | self.stage.statistics()
        record["lr"] = self.stage.players[0].optimizer.param_groups[0]["lr"]
        record["epoch"] = self.step / self.steps_per_epoch
        record["images_per_second"] = progress.rate(self.step) * self.stage.training.batch_size
        self.run.log(self.stage.name, self.step, record)
        progress.show(self.step, record)

    def _check_stopping(self, guard: FiniteGuard, last: bool) -> bool:
        """Scores the averaged weights now and then; True when the best score is `patience` checks old."""
        stopping = self.stage.stopping
        if stopping is None:
            return False
        every = max(1, round(stopping.every_epochs * self.steps_per_epoch))
        if not last and self.step % every:
            return False
        guard.check()
        with self.ema.applied_to(self.stage.model):
            score = self.stage.score()
        self.run.log(self.stage.name, self.step, {"score": score})
        self.best["checked"] = self.step
        if self.best["score"] is None or score < self.best["score"]:
            self.best |= {"score": score, "best": f"step-{self.step}"}
            self._save()
        return self.step - int(self.best["best"].removeprefix("step-")) >= stopping.patience * every

    def _save(self) -> None:
        if distributed.is_main():
            stage = self.stage
            training = {f"extra.{k}": v for k, v in stage.extra_state().items()}
            for player in stage.players:
                training |= checkpoints.optimizer_tensors(player.optimizer, f"optimizer.{player.name}")
                if player is not stage.players[0]:  # the first player's weights are the model
                    training |= {f"module.{player.name}.{k}": v for k, v in bare(player.module).state_dict().items()}
            state = {
                "step": self.step,
                "seconds": self._seconds(),
                "settings": self.run.settings(stage.sections),
                **self.best,
            }
            target = self.folder / f"step-{self.step}"
            checkpoints.save(
                target,
                {"model": stage.model.state_dict(), "ema": self.ema.state_dict(stage.model), "training": training},
                {"config": {"kind": stage.kind, "config": stage.model_config()}, "state": state},
            )
            best = self.folder / self.best["best"] if self.best["best"] else None
            checkpoints.keep_newest(self.folder, 2, also=best)
        distributed.barrier()

    def _resume(self) -> int:
        """Loads the newest checkpoint of the stage, if there is one, and returns its step."""
        found = checkpoints.steps(self.folder)
        step = 0
        if found:
            newest = found[-1]
            checkpoints.verify(newest)
            state = checkpoints.read_json(newest / "state.json")
            checkpoints.refuse_other_settings(state["settings"], self.run.settings(self.stage.sections), newest)
            model, ema, training = checkpoints.load(newest, "model", "ema", "training")
            self.stage.model.load_state_dict(model)
            self.ema.load(ema)
            for player in self.stage.players:
                checkpoints.load_optimizer_tensors(player.optimizer, training, f"optimizer.{player.name}")
                if player is not self.stage.players[0]:
                    bare(player.module).load_state_dict(checkpoints.under(training, f"module.{player.name}."))
            for name, tensor in self.stage.extra_state().items():
                tensor.copy_(training[f"extra.{name}"])
            self.best = {key: state[key] for key in self.best}
            self.seconds_before, step = state["seconds"], state["step"]
        self.run.forget_log_after(self.stage.name, step)
        return step

    def _seconds(self) -> float:
        return round(self.seconds_before + time.monotonic() - self.started, 2)

    def _finish(self) -> Path:
        chosen = self.best["best"] or checkpoints.steps(self.folder)[-1].name
        settings = self.run.settings(self.stage.sections)
        self.run.update_stage(self.stage.name, finished=True, best=chosen, seconds=self._seconds(), settings=settings)
        distributed.barrier()
        return self.folder / chosen


def bare(module: nn.Module) -> nn.Module:
    """The network inside a DistributedDataParallel wrapper."""
    return module.module if isinstance(module, DistributedDataParallel) else module
