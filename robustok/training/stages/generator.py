"""Training of the generator on token shards (METHOD.md section 5)."""

from dataclasses import asdict

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
from .base import Stage, StepPosition
from .tokenizer import TokenizerStage


class GeneratorStage(Stage):
    """Trains a generator of any family with its own loss; the registry of models says what changes over the epochs."""

    name = "generator"
    sections = (*TokenizerStage.sections, "generator", "generator_training")
    augment = False

    def __init__(self, run: Run, model: LoadedGenerator, rows: RowSet):
        self.config, self.training = run.config, run.config.generator_training
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
