"""Saving a stage in the middle of its training, and going on from there to the bit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ..checkpoints import reading, writing
from ..checkpoints.stored_settings import refuse_other_settings
from ..core import distributed
from ..core.errors import UserError
from ..core.files import read_json, remove_leftovers
from .ema import EMA
from .guard import refuse_not_finite
from .optimizers import load_optimizer_state, optimizer_state
from .parallel import whole
from .run import Run
from .stages.base import Stage


@dataclass
class StageState:
    """How far a stage is. Generator state is not in it: every draw is a function of the seed and the step."""

    step: int = 0
    seconds: float = 0.0
    best: str | None = None  # the checkpoint with the best score, where a stage has scores
    score: float | None = None
    stopped: bool = False  # early
    skipped: int = 0  # steps that changed nothing, because something was not finite


def save(stage: Stage, ema: EMA, state: StageState, run: Run) -> None:
    """Writes the checkpoint step-N of the stage; keeps the newest two and the best one.

    All processes must call this: each gathers what may be sharded, the main one writes. Raises RunError where a tensor
    is not finite.
    """
    training = {f"extra.{name}": tensor for name, tensor in stage.extra_state().items()}
    for trained in stage.trained:
        training |= optimizer_state(trained)
    tensors = {"model": stage.model.state_dict(), "ema": ema.state_dict(stage.model), "training": training}
    tensors |= {trained.name: trained.network.state_dict() for trained in stage.trained[1:]}
    tensors = {stem: {name: whole(tensor) for name, tensor in named.items()} for stem, named in tensors.items()}
    refuse_not_finite(tensors, run.folder / stage.name)
    documents = {
        "config": {"kind": stage.kind, "config": stage.model_config()},
        "state": {**asdict(state), "settings": run.settings(stage.sections)},
    }
    if stage.upstream:
        documents["upstream"] = dict(stage.upstream)
    if distributed.is_main():
        folder = run.folder / stage.name
        writing.save(folder / f"step-{state.step}", tensors, documents)
        writing.keep_newest(folder, 2, also=state.best)
    distributed.barrier()


def resume(stage: Stage, ema: EMA, run: Run) -> StageState:
    """Loads the stage's newest checkpoint into model, average, optimisers and extra state, if there is one.

    Raises UserError for a damaged checkpoint and for one of another config.
    """
    if distributed.is_main():
        remove_leftovers(run.folder / stage.name, "step-")
    found = reading.steps(run.folder / stage.name)
    if not found:
        return StageState()
    newest = found[-1]
    _verify(newest)
    state = read_json(newest / "state.json")
    refuse_other_settings(state.pop("settings"), run.settings(stage.sections), newest)
    model, average, training = reading.load(newest, "model", "ema", "training")
    stage.model.load_state_dict(model)
    ema.load(average)
    for trained in stage.trained:
        load_optimizer_state(trained, training)
    for trained in stage.trained[1:]:
        trained.network.load_state_dict(reading.load(newest, trained.name)[0])
    for name, tensor in stage.extra_state().items():
        tensor.copy_(training[f"extra.{name}"])
    return StageState(**state)


def _verify(checkpoint: Path) -> None:
    try:
        reading.verify(checkpoint)
    except UserError as error:
        raise UserError(
            f"{error}; delete {checkpoint} to go on from the checkpoint before it, or start over with --resume never"
        ) from error
