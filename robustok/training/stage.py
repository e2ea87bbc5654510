"""What a stage is to the loop: a model, the networks that learn, their data and their losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config import StoppingConfig, TrainingConfig
from ..core import distributed
from ..data.images import ImageSplit
from ..data.loader import Batch
from .run import Run

Terms = dict[str, Tensor]  # loss terms and figures of a step by name, 0-d


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
    """What differs between stages. The first player's weights are (in) the model."""

    name: str  # folder of the run and name in the log
    sections: str  # key of run.SECTIONS
    kind: str  # of model that a checkpoint holds: tokenizer, rar, classifier
    model: nn.Module
    training: TrainingConfig
    split: ImageSplit
    players: list[Player]
    augment: bool = True
    stopping: StoppingConfig | None = None

    @abstractmethod
    def objective(self, player: Player, batch: Batch, when: When) -> tuple[Tensor, Terms]:
        """(scalar to differentiate, terms to watch and log) of one micro-batch for one player."""

    @abstractmethod
    def model_config(self) -> dict:
        """Settings from which `load_*` rebuilds the model."""

    def active(self, when: When) -> list[Player]:
        """The players that move at this step, in order."""
        return self.players

    def begin_step(self, when: When) -> list[str]:
        """Called before each step; returns the names of parameters that it replaced (the tokenizer's codebook)."""
        return []

    def statistics(self, terms: dict[str, float]) -> dict[str, float]:
        """Figures for the log beside the terms, which are averaged over the processes already."""
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


def bare(module: nn.Module) -> nn.Module:
    """The network inside a DistributedDataParallel wrapper."""
    return module.module if isinstance(module, DistributedDataParallel) else module
