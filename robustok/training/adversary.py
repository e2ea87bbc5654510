"""The discriminator's side of main training and post-training (METHOD.md section 2)."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.reading import load
from ..config import DiscriminatorConfig, LossConfig
from ..core.errors import UserError
from ..core.random import AUGMENT, derive_seed, keyed_words, to_uniform
from ..models.discriminator import Discriminator, diff_augment, warmup_blur
from ..models.interfaces import Terms
from .losses import ADVERSARIAL, LeCAM, adaptive_weight
from .optimizers import TrainedModule
from .run import Run
from .schedules import cosine_rate
from .stages.base import StepPosition


class Shown(NamedTuple):
    """What the discriminator is to tell apart in its own step."""

    fake: Tensor  # (b, 3, H, W)
    real: Tensor
    draws: Tensor  # (3, 7, b) uniform: the augmentations that it sees the images under; see `Adversary.show`


class StoredAdversary(NamedTuple):
    """What a training left of its discriminator."""

    weights: dict[str, Tensor]  # none: it had no discriminator
    lecam: Tensor  # LeCAM's averages, (2,) float64


class Adversary:
    """A discriminator on frozen features, LeCAM, and the adaptive weight that balances it with the reconstruction.

    Each image gradient is taken once: those of the reconstruction terms and of the adversarial term meet at the
    decoded pixels, where the adaptive weight is found, and go through the decoder together.
    """

    def __init__(
        self,
        run: Run,
        backbone: nn.Module,
        losses: LossConfig,
        settings: DiscriminatorConfig,
        *,
        start: float,
        epochs: float,
        steps_per_epoch: int,
    ):
        self.losses, self.start = losses, start
        self._discriminator_loss, self._decoder_loss = ADVERSARIAL[losses.adversarial_kind]
        torch.manual_seed(run.config.seed + 1)
        discriminator = Discriminator(backbone.to(run.device)).to(run.device)
        self.lecam = LeCAM(run.device)

        def rate(step: int) -> float:
            return cosine_rate(
                step - start * steps_per_epoch,
                total=max((epochs - start) * steps_per_epoch, 1),
                warmup=settings.warmup_epochs * steps_per_epoch,
                peak=settings.lr,
                floor=settings.min_lr,
                first=settings.warmup_lr,
            )

        self.trained = TrainedModule.with_adamw("discriminator", discriminator, settings, rate, run)
        self._seed = derive_seed(run.config.seed, "diff_augment")
        # the micro-batches whose decoder step is done and the discriminator's not, by their offset
        self._shown: dict[int, Shown] = {}

    def continue_from(self, stored: StoredAdversary) -> None:
        """Takes over weights and averages. Raises UserError for those of a discriminator on another backbone."""
        try:
            self.trained.network.load_state_dict(stored.weights)
        except RuntimeError as error:
            raise UserError(
                "the tokenizer's discriminator was trained on another backbone than this run's: a released one needs "
                f"--frozen.dino FILE (DINO ViT-S/16)\n{error}"
            ) from None
        self.lecam.state.copy_(stored.lecam)

    def is_active(self, epoch: float) -> bool:
        return self.losses.adversarial > 0 and epoch >= self.start

    def decoder_objective(
        self,
        image_loss: Tensor,
        decoded: Tensor,
        images: Tensor,
        last_layer: Tensor,
        ids: Tensor,
        position: StepPosition,
    ) -> tuple[Tensor, Terms]:
        """The objective of `image_loss` plus the weighted adversarial term, and the terms to log.

        Args:
            image_loss: scalar, a function of `decoded` (b, 3, H, W).
            images: the real ones, (b, 3, H, W) in [-1, 1], with their ids int64 (b,).
            last_layer: of the decoder, where the adaptive weight compares gradients.
            position: of the micro-batch, which is kept for the discriminator's own step.
        """
        draws = self.show(decoded, images, ids, position)
        discriminator = self.trained.network
        discriminator.requires_grad_(False)
        adversarial = self._decoder_loss(self._logits(discriminator, decoded, draws, position))
        discriminator.requires_grad_(True)
        (image_grad,) = torch.autograd.grad(image_loss, decoded)
        (adversarial_grad,) = torch.autograd.grad(adversarial, decoded)
        at_last_layer = [
            torch.autograd.grad(decoded, last_layer, grad, retain_graph=True)[0].float()
            for grad in (image_grad, adversarial_grad)
        ]
        adaptive = adaptive_weight(*at_last_layer)
        weight = self.losses.adversarial * adaptive
        objective = (decoded * (image_grad + weight.to(image_grad.dtype) * adversarial_grad)).sum()
        return objective, {"adversarial": adversarial, "adaptive_weight": adaptive}

    def show(self, decoded: Tensor, images: Tensor, ids: Tensor, position: StepPosition) -> Tensor:
        """Keeps a micro-batch, as of `decoder_objective`, for the discriminator's own step.

        Returns the draws (7, b) of the augmentation that the decoder's step sees it under. They and those of the two
        halves of the discriminator's step depend on (seed, step, which of the three, id) alone.
        """
        use, pair = torch.arange(3, device=ids.device)[:, None, None], torch.arange(2, device=ids.device)[:, None]
        words = torch.cat(keyed_words(self._seed, AUGMENT, ids, 3 * position.step + use, pair), 1)
        draws = to_uniform(words[:, :7])
        self._shown[position.offset] = Shown(decoded.detach(), images, draws)
        return draws[0]

    def discriminator_objective(self, position: StepPosition) -> tuple[Tensor, Terms]:
        """The discriminator's loss on the micro-batch that it was shown at this position, and its terms."""
        shown = self._shown.pop(position.offset)
        fake_logits = self._logits(self.trained.module, shown.fake, shown.draws[1], position)
        real_logits = self._logits(self.trained.module, shown.real, shown.draws[2], position)
        loss = self._discriminator_loss(real_logits, fake_logits)
        loss = self.losses.adversarial * (loss + self.losses.lecam * self.lecam(real_logits, fake_logits))
        return loss, {"discriminator": loss, "logits_real": real_logits.mean(), "logits_fake": fake_logits.mean()}

    def _logits(self, discriminator: nn.Module, images: Tensor, draws: Tensor, position: StepPosition) -> Tensor:
        """Logits of images augmented by these draws."""
        images = diff_augment(images, draws)
        if self.losses.blur_epochs:
            images = warmup_blur(images, max(0.0, 1.0 - (position.epoch - self.start) / self.losses.blur_epochs))
        return discriminator(images).float()


def adversary_of_tokenizer(tokenizer: Checkpoint) -> StoredAdversary:
    """The discriminator that a tokenizer was trained with; no weights, and averages of 0, where it came without one."""
    stored = load(tokenizer.path, "training")[0] if (tokenizer.path / "training.safetensors").is_file() else {}
    return StoredAdversary(tokenizer.discriminator, stored.get("extra.lecam", torch.zeros(2, dtype=torch.float64)))


def warmed_up_adversary(checkpoint: Path) -> StoredAdversary:
    """The discriminator in a checkpoint of its own warm-up."""
    weights, stored = load(checkpoint, "model", "training")
    return StoredAdversary(weights, stored["extra.lecam"])
