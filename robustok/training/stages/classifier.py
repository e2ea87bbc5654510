"""The classifier of the run's own classes, which stands in for pretrained frozen networks."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...data.images import Images
from ...data.loader import Batch
from ...data.transforms import from_uint8
from ...models.frozen.classifier import Classifier
from ...models.interfaces import Terms
from ..optimizers import TrainedModule, learning_rate
from ..run import Run
from .base import Stage, StepPosition


class ClassifierStage(Stage):
    """Trains the small classifier with cross-entropy."""

    name = kind = "classifier"
    sections = ("seed", "data", "precision", "classifier")

    def __init__(self, run: Run, images: Images):
        self.training, self.dataset = run.config.classifier, images.train
        self._shape = {"num_classes": images.num_classes, "image_size": images.train.image_size}
        torch.manual_seed(run.config.seed)
        self.model = Classifier(**self._shape).to(run.device)
        rate = learning_rate(self.training, len(self.dataset) // self.training.batch_size)
        self.trained = [TrainedModule.with_adamw("classifier", self.model, self.training, rate, run)]

    def model_config(self) -> dict:
        return self._shape

    def objective(self, trained: TrainedModule, batch: Batch, position: StepPosition) -> tuple[Tensor, Terms]:
        logits = trained.module(from_uint8(batch.inputs)).float()
        loss = F.cross_entropy(logits, batch.labels)
        return loss, {"loss": loss, "accuracy": (logits.argmax(1) == batch.labels).float().mean()}
