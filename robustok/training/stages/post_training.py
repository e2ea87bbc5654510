"""Post-training of the tokenizer's decoder on generated tokens or latents (METHOD.md section 6)."""

import warnings
from collections.abc import Callable

from torch import Tensor, nn

from ...core.errors import UserError
from ...data.images import Images
from ...data.loader import Batch
from ...data.row_datasets import PairDataset
from ...data.rows import RowSet
from ...data.transforms import from_uint8
from ...models.frozen.networks import FrozenNetworks
from ...models.interfaces import LoadedTokenizer, Terms, is_discrete
from ..adversary import Adversary
from ..optimizers import TrainedModule, learning_rate
from ..run import Run
from .base import StepPosition
from .decoder import DecoderStage
from .generator import GeneratorStage

PAIR_SECTIONS = (*GeneratorStage.sections, "sampling", "pairs")  # of the config: what pairs depend on


class DecoderOfRows(nn.Module):
    """Tokens (B, L), or latents (B, L, D) of a continuous tokenizer -> images, not clamped: a tokenizer as post-training
    calls it.
    """

    def __init__(self, tokenizer: LoadedTokenizer):
        super().__init__()
        self.tokenizer = tokenizer  # its name is part of the order that training/optimizers.py keeps

    def forward(self, rows: Tensor) -> Tensor:
        return self.tokenizer.decode(self.tokenizer.lookup(rows) if is_discrete(self.tokenizer) else rows)


class PostTrainingStage(DecoderStage):
    """Only the decoder side learns, from generated tokens or latents to the real images, without perturbation.

    The discriminator goes on from main training. `score_of` gives gFD of a tokenizer, for early stopping.
    """

    sections = (*PAIR_SECTIONS, "post_training", "post_discriminator", "stopping", "evaluation")
    augment = False

    def __init__(
        self,
        run: Run,
        name: str,
        images: Images,
        pairs: RowSet,
        frozen: FrozenNetworks,
        model: LoadedTokenizer,
        discriminator: dict[str, Tensor],
        lecam: Tensor,
        score_of: Callable[[LoadedTokenizer], float],
    ):
        c = run.config
        self.run, self.frozen, self.model, self.name = run, frozen, model, name
        self.training, self.stopping, self._score_of = c.post_training, c.stopping, score_of
        self.dataset = PairDataset(images.train, pairs)
        steps = len(self.dataset) // self.training.batch_size
        self.adversary = Adversary(
            run,
            frozen.backbone,
            c.losses,
            c.post_discriminator,
            start=0.0,
            epochs=self.training.epochs,
            steps_per_epoch=steps,
        )
        if discriminator:
            self._continue_discriminator(discriminator)
        else:
            warnings.warn("the tokenizer came without a discriminator: post-training starts a new one", stacklevel=2)
        self.adversary.lecam.state.copy_(lecam)
        model.freeze_encoder()
        rate = learning_rate(self.training, steps)
        own = TrainedModule.with_adamw("tokenizer", model, self.training, rate, run, module=DecoderOfRows(model))
        self.trained = [own, self.adversary.trained]

    def _continue_discriminator(self, weights: dict[str, Tensor]) -> None:
        try:
            self.adversary.trained.network.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(
                "the tokenizer's discriminator was trained on another backbone than this run's: a released one needs "
                f"--frozen.dino FILE (DINO ViT-S/16)\n{error}"
            ) from None

    def objective(self, trained: TrainedModule, batch: Batch, position: StepPosition) -> tuple[Tensor, Terms]:
        if trained is self.adversary.trained:
            return self.adversary.discriminator_objective(position)
        generated = self.dataset.generated(batch.rows).to(batch.inputs.device)
        return self.image_losses(trained.module(generated), from_uint8(batch.inputs), batch, position)

    def score(self) -> float:
        return self._score_of(self.model)
