"""Saving a stage in the middle of its training, and going on from there to the bit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from ..checkpoints import reading, writing
from ..checkpoints.stored_settings import refuse_other_settings
from ..core import distributed
from ..core.files import read_record
from ..core.parsing import named_in, parsing
from . import sharded
from .ema import EMA
from .guard import refuse_not_finite
from .optimizers import empty_state, load_optimizer_state, optimizer_state
from .parallel import load_weights, whole_on_main
from .run import Run
from .stages.base import Stage


@dataclass
class StageState:
    """How far a stage is. Generator state is not in it: every draw is a function of the seed and the step."""

    step: int = 0
    seconds: float = 0.0
    best: str | None = None  # the checkpoint with the best score, where a stage has scores
    score: float | None = None
    score_by: str | None = None  # the figure that the score is
    stopped: bool = False  # early
    skipped: int = 0  # steps that changed nothing, because something was not finite


def save(stage: Stage, ema: EMA, state: StageState, run: Run) -> None:
    """Writes the checkpoint step-N of the stage; keeps the newest ones, and those that they call the best.

    All processes must call this: the main one writes, and each its shards of the optimisers' state where a network is
    sharded. Raises RunError where a tensor is not finite.
    """
    training = {f"extra.{name}": tensor for name, tensor in stage.extra_state().items()}
    for trained in stage.trained:
        training |= optimizer_state(trained)
    tensors = {"model": stage.model.state_dict(), "ema": ema.state_dict(stage.model), "training": training}
    tensors |= {trained.name: trained.network.state_dict() for trained in stage.trained[1:]}
    shards = {name: training.pop(name) for name, tensor in [*training.items()] if isinstance(tensor, DTensor)}
    tensors = {stem: {name: whole_on_main(tensor) for name, tensor in named.items()} for stem, named in tensors.items()}
    own = {name: tensor.to_local() for name, tensor in shards.items()}
    refuse_not_finite({**tensors, "shards": own}, run.folder / stage.name)
    documents = {
        "config": {"kind": stage.kind, "config": stage.model_config()},
        "state": {**asdict(state), "settings": run.settings(stage.sections)},
    }
    if stage.upstream:
        documents["upstream"] = dict(stage.upstream)
    if distributed.is_main():
        folder = run.folder / stage.name
        beside = partial(sharded.write, tensors=shards) if shards else None
        writing.save(folder / f"step-{state.step}", tensors, documents, beside)
        _keep_newest(folder, stage.training.keep)
    elif shards:
        sharded.write(None, shards)
    distributed.barrier()


def resume(stage: Stage, ema: EMA, run: Run) -> StageState:
    """Loads the stage's newest whole checkpoint into model, average, optimisers and extra state, if there is one.

    A damaged one is set aside and named. Raises UserError where all are damaged, and for one of another config.
    """
    folder = run.folder / stage.name
    newest = _newest_whole(folder)
    if newest is None:
        return StageState()
    state, stored = _state(newest), read_record(newest / "state.json")
    refuse_other_settings(stored["settings"], run.settings(stage.sections), newest)
    if state.best is not None and not (folder / state.best).exists():
        state.best = state.score = None
    chosen_by = stage.validation and stage.validation.keep_best_by
    if state.score_by != chosen_by and not state.stopped:  # a former version chose by another figure: from here on anew
        state.best = state.score = state.score_by = None
    model, average, training = reading.load(newest, "model", "ema", "training")
    load_weights(stage.model, model)
    ema.load(average)
    for trained in stage.trained:
        load_optimizer_state(trained, training | sharded.read(newest, partial(empty_state, trained), besides=training))
    for trained in stage.trained[1:]:
        load_weights(trained.network, reading.load(newest, trained.name)[0])
    for name, tensor in stage.extra_state().items():
        tensor.copy_(training[f"extra.{name}"])
    if distributed.is_main():
        _keep_newest(folder, stage.training.keep)  # a process killed in its last save left one too many
    return state


def _keep_newest(folder: Path, count: int) -> None:
    """Deletes all but the newest checkpoints, and those that they call the best."""
    writing.keep_newest(folder, count, also=[_best_of(path) for path in reading.steps(folder)[-count:]])


def _newest_whole(folder: Path) -> Path | None:
    """The checkpoint to go on from, found by the main process for all.

    The one that it calls the best is set aside where it is damaged.
    """
    step = -1
    if distributed.is_main():
        newest = reading.newest_whole(folder)
        if newest is not None:
            state = _state(newest)
            step, best = state.step, folder / (state.best or newest.name)
            if best.exists() and (said := reading.damage(best)):
                reading.set_aside(best, f"{said}; the best one is chosen anew from step {step} on")
    step = int(distributed.from_main(torch.tensor(step)))
    return None if step < 0 else folder / f"step-{step}"


def _state(checkpoint: Path) -> StageState:
    """How far the stage was at a checkpoint of it. Raises UserError for a state.json that does not say so."""
    path = checkpoint / "state.json"
    with parsing(path, "the state of a stage"):
        stored = read_record(path)
        if not isinstance(stored.pop("settings", None), dict):
            raise ValueError("no settings")
        state = StageState(**stored)
        if checkpoint.name != f"step-{state.step}":
            raise ValueError(f"of step {state.step!r:.60}")
        if state.best is not None:
            named_in(checkpoint.parent, state.best, path)
    return state


def _best_of(checkpoint: Path) -> str | None:
    """The checkpoint that this one calls the best, where it can say so."""
    return None if reading.damage(checkpoint, ["state.json"]) else _state(checkpoint).best
