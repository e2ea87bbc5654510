"""Warm-up of a new discriminator before post-training, for a tokenizer that came without one."""

from dataclasses import replace

import torch
from torch import Tensor

from ...data.images import Images
from ...data.loader import Batch
from ...data.tokenization import encode_rows
from ...data.transforms import from_uint8
from ...models.frozen.networks import FrozenNetworks
from ...models.interfaces import LoadedTokenizer, Terms
from ..adversary import Adversary
from ..optimizers import TrainedModule
from ..run import Run
from .base import Stage, StepPosition
from .decoder import MainTrainingStage
from .post_training import DecoderOfRows


class DiscriminatorStage(Stage):
    """The discriminator learns to tell the training images from what the tokenizer makes of them, which learns nothing.

    Of published tokenizers only the authors' come with one.
    """

    name = kind = "discriminator"
    sections = (*MainTrainingStage.sections, "post_training", "discriminator_warmup")
    augment = False

    def __init__(self, run: Run, images: Images, frozen: FrozenNetworks, tokenizer: LoadedTokenizer):
        settings = run.config.discriminator_warmup
        self.training = replace(run.config.post_training, epochs=settings.epochs, ema=0.0)
        self.dataset, self._tokenizer = images.train, tokenizer.eval().requires_grad_(False)
        self._decoder = DecoderOfRows(tokenizer)
        steps = len(self.dataset) // self.training.batch_size
        self.adversary = Adversary(
            run,
            frozen.backbone,
            run.config.losses,
            settings,
            start=0.0,
            epochs=settings.epochs,
            steps_per_epoch=steps,
        )
        self._channels = list(frozen.backbone.channels)
        self.model, self.trained = self.adversary.trained.network, [self.adversary.trained]

    def model_config(self) -> dict:
        return {"channels": self._channels}

    def objective(self, trained: TrainedModule, batch: Batch, position: StepPosition) -> tuple[Tensor, Terms]:
        images = from_uint8(batch.inputs)
        with torch.no_grad():
            decoded = self._decoder(encode_rows(self._tokenizer, images))
        self.adversary.show(decoded, images, batch.ids, position)
        return self.adversary.discriminator_objective(position)

    def extra_state(self) -> dict[str, Tensor]:
        return {"lecam": self.adversary.lecam.state}
