"""Post-training of the tokenizer's decoder on generated tokens or latents (METHOD.md section 6)."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ...data.images import Images
from ...data.loader import Batch
from ...data.row_datasets import PairDataset
from ...data.rows import RowSet
from ...data.transforms import from_uint8
from ...models.frozen.networks import FrozenNetworks
from ...models.interfaces import LoadedTokenizer, Terms, is_discrete
from ..adversary import Adversary, StoredAdversary
from ..optimizers import TrainedModule, learning_rate
from ..run import Run
from .base import StepPosition, Validation
from .decoder import DecoderStage
from .generator import GeneratorStage

PAIR_SECTIONS = (*GeneratorStage.sections, "sampling", "pairs")  # of the config: what pairs depend on


class DecoderOfRows(nn.Module):
    """A tokenizer as post-training calls it: tokens, or latents of a continuous one -> images, not clamped."""

    def __init__(self, tokenizer: LoadedTokenizer):
        super().__init__()
        self.tokenizer = tokenizer  # its name is part of the order that training/optimizers.py keeps

    def forward(self, rows: Tensor) -> Tensor:
        return self.tokenizer.decode(self.tokenizer.lookup(rows) if is_discrete(self.tokenizer) else rows)


class PostTrainingStage(DecoderStage):
    """Only the decoder side learns, from generated tokens or latents to the real images, without perturbation.

    The discriminator goes on from `adversary`, where that has weights. `figures` of a tokenizer: "score", to stop by,
    and others to watch.
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
        upstream: Mapping[str, Any],
        adversary: StoredAdversary,
        figures: Callable[[LoadedTokenizer], dict[str, float]],
    ):
        c = run.config
        self.run, self.frozen, self.model, self.upstream, self.name = run, frozen, model, upstream, name
        self.training, self._figures = c.post_training, figures
        self.validation = Validation(c.stopping.every_epochs, keep_best_by="score", patience=c.stopping.patience)
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
        if adversary.weights:
            self.adversary.continue_from(adversary)
        model.freeze_encoder()
        rate = learning_rate(self.training, steps)
        own = TrainedModule.with_adamw("tokenizer", model, self.training, rate, run, module=DecoderOfRows(model))
        self.trained = [own, self.adversary.trained]

    def objective(self, trained: TrainedModule, batch: Batch, position: StepPosition) -> tuple[Tensor, Terms]:
        if trained is self.adversary.trained:
            return self.adversary.discriminator_objective(position)
        generated = self.dataset.generated(batch.rows, batch.inputs.device)
        return self.image_losses(trained.module(generated), from_uint8(batch.inputs), batch, position)

    def validate(self) -> dict[str, float]:
        return self._figures(self.model)
