"""What main training and post-training share: pixel losses on decoded images, and the discriminator beside them."""

import math
from collections.abc import Callable
from dataclasses import asdict

from torch import Tensor

from ...core.random import derive_seed
from ...data.images import Images
from ...data.loader import Batch
from ...models.frozen.networks import FrozenNetworks
from ...models.interfaces import LoadedTokenizer, Terms
from ...models.registry import family_of
from ...models.tokenizers.perturbation import Perturbation, kind_for
from ..adversary import Adversary
from ..losses import reconstruction_loss
from ..optimizers import TrainedModule, learning_rate
from ..run import Run
from ..schedules import perturbation_strength
from .base import Stage, StepPosition, Validation


class DecoderStage(Stage):
    """A stage that trains a tokenizer's decoder, at the least, against real images."""

    run: Run
    frozen: FrozenNetworks
    adversary: Adversary

    @property
    def kind(self) -> str:
        return family_of(self.model).kind

    def model_config(self) -> dict:
        return asdict(self.model.config)

    def active(self, position: StepPosition) -> list[TrainedModule]:
        return self.trained if self.adversary.is_active(position.epoch) else self.trained[:1]

    def extra_state(self) -> dict[str, Tensor]:
        return {"lecam": self.adversary.lecam.state}

    def statistics(self, terms: dict[str, float]) -> dict[str, float]:
        return {"psnr": 10.0 * math.log10(4.0 / terms["reconstruction"])}  # peak to peak is 2

    def image_losses(
        self, decoded: Tensor, images: Tensor, batch: Batch, position: StepPosition
    ) -> tuple[Tensor, Terms]:
        """Objective and terms of reconstruction, perceptual and, once it is on, adversarial loss against `images`."""
        weights = self.run.config.losses
        terms = {"reconstruction": reconstruction_loss(decoded.float(), images)}
        objective = weights.reconstruction * terms["reconstruction"]
        if weights.perceptual:
            terms["perceptual"] = self.frozen.perceptual(decoded.float(), images).mean()
            objective = objective + weights.perceptual * terms["perceptual"]
        if not self.adversary.is_active(position.epoch):
            return objective, terms
        objective, adversarial_terms = self.adversary.decoder_objective(
            objective, decoded, images, self.model.last_layer, batch.ids, position
        )
        return objective, terms | adversarial_terms


class MainTrainingStage(DecoderStage):
    """Main training of a tokenizer: all of it learns from the training images; the discriminator starts late."""

    name = "tokenizer"
    sections = (
        *("seed", "data", "precision", "start", "frozen", "classifier", "tokenizer", "codebook"),
        *("perturbation", "losses", "tokenizer_training", "discriminator", "validation"),
    )

    def __init__(
        self,
        run: Run,
        images: Images,
        frozen: FrozenNetworks,
        model: LoadedTokenizer,
        figures: Callable[[LoadedTokenizer], dict[str, float]] | None = None,
    ):
        """figures: of a tokenizer on the validation images, where the settings ask for validation."""
        c = run.config
        self.run, self.frozen, self.model, self._figures = run, frozen, model, figures
        self.validation = Validation.of(c, c.tokenizer_training)
        self.training, self.dataset = c.tokenizer_training, images.train
        steps = len(self.dataset) // self.training.batch_size
        self.adversary = Adversary(
            run,
            frozen.backbone,
            c.losses,
            c.discriminator,
            start=c.losses.adversarial_start,
            epochs=self.training.epochs,
            steps_per_epoch=steps,
        )
        own = TrainedModule.with_adamw("tokenizer", model, self.training, learning_rate(self.training, steps), run)
        self.trained = [own, self.adversary.trained]

    def validate(self) -> dict[str, float]:
        return self._figures(self.model)

    def perturbation(self, batch: Batch, position: StepPosition) -> Perturbation | None:
        """This micro-batch's part of the step's perturbation: the first floor(beta * B) images of the global batch."""
        c = self.run.config.perturbation
        kind = kind_for(self.model, c.kind)
        if kind is None:
            return None
        alpha, delta, strength = perturbation_strength(c, position.epoch)
        count = int(c.beta * self.training.batch_size) - position.offset
        count = min(max(count, 0), len(batch.ids))
        seed = derive_seed(self.run.config.seed, "perturbation", position.step)
        return Perturbation(alpha, c.beta, delta, seed, count, batch.ids, c.neighbors, kind, strength)
