"""What a stage is to the training loop: a model, the modules that learn, their data and their losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from ...config import RunConfig, TrainingConfig
from ...data.loader import Batch, Dataset
from ...models.interfaces import Terms
from ..optimizers import TrainedModule


@dataclass(frozen=True)
class StepPosition:
    """Where a micro-batch stands in the training of its stage."""

    step: int  # optimiser steps before this one
    epoch: float  # the same in passes over the data
    offset: int  # images of the global batch before this micro-batch


@dataclass(frozen=True)
class Validation:
    """When a stage is validated, and what follows from it."""

    every_epochs: float
    keep_best_by: str | None = None  # the figure by which the checkpoint to use is chosen; None: it is the last one
    patience: int | None = None  # validations without a better one after which the stage stops; None: it does not

    @classmethod
    def of(cls, run: RunConfig, training: TrainingConfig) -> Validation | None:
        """What the settings ask for."""
        every = run.validation.every_epochs
        return None if every is None else cls(every, training.keep_best_by)


class Stage(ABC):
    """A stage of training. The weights of the first trained module are (in) the model."""

    name: str  # folder of the run and name in the log
    sections: ClassVar[tuple[str, ...]]  # of the config: what the stage's result depends on
    kind: str  # of the model that a checkpoint holds: tokenizer, rar, classifier
    model: nn.Module
    training: TrainingConfig
    dataset: Dataset
    trained: list[TrainedModule]
    augment: bool = True  # the images
    validation: Validation | None = None
    upstream: Mapping[str, Any] = MappingProxyType({})  # what the published layout that the model came from needs to be
    # written again, see checkpoints/checkpoint.py

    @abstractmethod
    def objective(self, trained: TrainedModule, batch: Batch, position: StepPosition) -> tuple[Tensor, Terms]:
        """(scalar to differentiate, terms to watch and log) of one micro-batch for one of the trained modules."""

    @abstractmethod
    def model_config(self) -> dict:
        """Settings from which `load_*` rebuilds the model."""

    def active(self, position: StepPosition) -> list[TrainedModule]:
        """The modules that take this step, in order."""
        return self.trained

    def begin_step(self, position: StepPosition) -> dict[str, Tensor]:
        """Called before each step; returns which rows it replaced of parameters of the first module: bool masks over
        the first dimension, by name.
        """
        return {}

    def end_step(self, position: StepPosition) -> dict[str, Tensor]:
        """The same, called after each step."""
        return {}

    def alarms(self, record: dict[str, float]) -> dict[str, str]:
        """What a person should know by a record of the log: sentences, by the name of the event. Each is told once."""
        return {}

    def statistics(self, terms: dict[str, float]) -> dict[str, float]:
        """Figures for the log beside the terms, which are averaged over the processes already."""
        return {}

    def extra_state(self) -> dict[str, Tensor]:
        """Tensors beside networks and optimisers that a resumed run needs; they are loaded in place."""
        return {}

    def validate(self) -> dict[str, float]:
        """Figures of the model as it stands, on images that it does not learn from; called where `validation` is set.

        It changes nothing, and draws nothing from torch's generators.
        """
        raise NotImplementedError
