"""Training of the generator on token shards (METHOD.md section 5)."""

from collections.abc import Callable
from dataclasses import asdict
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.random import derive_seed
from ...data.loader import Batch
from ...data.row_datasets import RowDataset
from ...data.rows import RowSet
from ...models.interfaces import LoadedGenerator, Terms
from ...models.registry import family_of
from ..optimizers import TrainedModule, learning_rate
from ..parallel import LossModule
from ..run import Run
from .base import Stage, StepPosition, Validation
from .tokenizer import TokenizerStage

VALIDATED_AT_ONCE = 64  # images


class HeldOut(NamedTuple):
    """What a generator is validated on."""

    inputs: Tensor  # tokens (N, T) int64, or latents (N, L, D)
    labels: Tensor  # (N,) int64
    ids: Tensor  # (N,) int64, of the images


class GeneratorStage(Stage):
    """Trains a generator of any family with its own loss; the registry of models says what changes over the epochs."""

    name = "generator"
    sections = (*TokenizerStage.sections, "generator", "generator_training")
    augment = False

    def __init__(self, run: Run, model: LoadedGenerator, rows: RowSet, held_out: Callable[[], HeldOut] | None = None):
        """held_out: the rows of the validation images, where the settings ask for validation."""
        self.run, self.config, self.training = run, run.config, run.config.generator_training
        self.validation, self._held_out = Validation.of(self.config, self.training), held_out
        self.dataset, self.model = RowDataset(rows), model
        family = family_of(model)
        self.kind, self._schedule = family.kind, family.schedule
        rate = learning_rate(self.training, len(self.dataset) // self.training.batch_size)
        self.trained = [
            TrainedModule.with_adamw("generator", model, self.training, rate, run, module=LossModule(model))
        ]

    def model_config(self) -> dict:
        return asdict(self.model.config)

    def objective(self, trained: TrainedModule, batch: Batch, position: StepPosition) -> tuple[Tensor, Terms]:
        seed = derive_seed(self.config.seed, "orders", position.step)
        settings = self._schedule(self.config, position.epoch)
        return trained.module(batch.inputs, batch.labels, seed=seed, sample_ids=batch.ids, **settings)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss of the validation images as it is at the end of training, with the same draws every time."""
        rows, total = self._held_out(), 0.0
        settings = self._schedule(self.config, self.training.epochs)
        seed = derive_seed(self.config.seed, "validation")
        for part in torch.arange(len(rows.ids)).split(VALIDATED_AT_ONCE):
            inputs, labels, ids = (values[part].to(self.run.device) for values in rows)
            with self.run.autocast():
                loss, _ = self.trained[0].module(inputs, labels, seed=seed, sample_ids=ids, **settings)
            total += loss.item() * len(part)
        return {"loss": total / len(rows.ids)}
