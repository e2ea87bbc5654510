"""Where the figures of a run are shown beside log.jsonl: TensorBoard always, Weights & Biases where it is asked for.

log.jsonl is the truth, and alone is read again: a tracker may have steps twice after a run was interrupted, and one
that fails is left out while the run goes on. Nothing here reads variables of the environment; wandb itself knows its
own, such as WANDB_MODE=offline.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol

from ..core.errors import RunError, UserError
from ..core.files import explained_full_disk, read_json, write_json
from ..core.text import say

PROJECT = "robustok"


def check_tracker(name: str) -> None:
    """Raises UserError where the package of a tracker is missing."""
    if name == "wandb":
        _wandb()


def _wandb() -> Any:
    try:
        import wandb
    except ImportError:
        raise UserError("tracker wandb: found no package wandb; pip install 'robustok[wandb]'") from None
    return wandb


class Tracker(Protocol):
    """What a run tells a tracker. Steps count within a stage."""

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """The figures of a step, by name."""

    def note(self, stage: str, step: int, text: str) -> None:
        """A sentence for people: an alarm, a step left out."""

    def close(self) -> None:
        """The run ends."""


class TensorBoard:
    """Event files in RUN/tensorboard, made when there is something to write. Raises RunError where the disk is full."""

    def __init__(self, folder: Path):
        self.folder = folder / "tensorboard"
        self._writer: Any = None

    @property
    def writer(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self.folder)
        return self._writer

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        with explained_full_disk(self.folder):
            for name, value in values.items():
                self.writer.add_scalar(f"{stage}/{name}", value, step)

    def note(self, stage: str, step: int, text: str) -> None:
        with explained_full_disk(self.folder):
            self.writer.add_text(f"{stage}/notes", text, step)

    def close(self) -> None:
        if self._writer is not None:
            with explained_full_disk(self.folder):
                self._writer.close()


class WeightsAndBiases:
    """A run of wandb that gets settings and figures, and neither code nor anything of the machine.

    Raises UserError where the package is missing or refuses to start.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        wandb = _wandb()
        own = folder / "wandb.json"  # the same run again when this one is resumed
        if not own.is_file():
            write_json(own, {"id": token_hex(8)})
        quiet = {"disable_git": True, "save_code": False, "console": "off", "x_save_requirements": False}
        quiet |= {"x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True}
        try:
            self._run = wandb.init(
                project=PROJECT,
                name=settings["name"],
                id=read_json(own)["id"],
                resume="allow",
                dir=str(folder),
                config=dict(settings),
                settings=wandb.Settings(**quiet),
            )
        except Exception as error:  # of whatever kind its network and its settings lead it to
            raise UserError(
                f"tracker wandb could not start: {error}; `wandb login` first, set WANDB_MODE=offline, or use "
                "--tracker none"
            ) from error
        self._alert_level = wandb.AlertLevel.WARN
        self._stages: set[str] = set()

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if stage not in self._stages:  # every stage counts its own steps
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/step")
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in values.items()}})

    def note(self, stage: str, step: int, text: str) -> None:
        self._run.alert(title=f"{stage}, step {step}", text=text, level=self._alert_level)

    def close(self) -> None:
        self._run.finish()


class Trackers:
    """All trackers of a run as one: what one of them cannot do is said, and it is left out from then on."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        """settings: of the run, plain values by section. Raises UserError for a tracker that cannot start."""
        self._open: list[Tracker] = [TensorBoard(folder)]
        if settings["tracker"] == "wandb":
            self._open.append(WeightsAndBiases(folder, settings))

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self._tell(lambda tracker: tracker.log(stage, step, values))

    def note(self, stage: str, step: int, text: str) -> None:
        self._tell(lambda tracker: tracker.note(stage, step, text))

    def close(self) -> None:
        self._tell(lambda tracker: tracker.close())

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self._open):
            try:
                call(tracker)
            except RunError:  # a full disk, which the next checkpoint would meet
                raise
            except Exception as error:  # a network that fails must not end a training
                self._open.remove(tracker)
                say(f"{type(tracker).__name__} is left out from here on: {error}; log.jsonl has it all", sys.stderr)
