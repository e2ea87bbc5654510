"""Main training of a continuous tokenizer, as MAETok (arXiv 2502.03444) does it.

Some patches of each image are hidden from the encoder. The pixel decoder gives back the whole image, under the losses
that a discrete tokenizer has; auxiliary decoders predict features of the hidden patches. Of the paper's targets those
are built that a run has: HOG, and the patch features of its teacher. CLIP's and text features are not.
"""

from torch import Tensor

from ...core.random import derive_seed
from ...core.sizes import area
from ...data.images import Images
from ...data.loader import Batch
from ...data.transforms import from_uint8
from ...models.frozen.hog import HOG_WIDTH, hog
from ...models.frozen.networks import FrozenNetworks
from ...models.interfaces import Terms
from ...models.tokenizers.maetok import MAEOutput, MAETok
from ...models.tokenizers.masked_features import hidden_patches, masked_loss
from ..optimizers import TrainedModule
from ..run import Run
from .base import StepPosition
from .decoder import MainTrainingStage


class MaskedTokenizerStage(MainTrainingStage):
    """Reconstruction, perceptual and adversarial losses, and a loss for each target; latents are perturbed, if
    at all, for the pixel decoder alone.
    """

    def __init__(self, run: Run, images: Images, frozen: FrozenNetworks, model: MAETok, figures=None):
        if model.masked is None and model.config.targets:
            widths = {"hog": HOG_WIDTH, "teacher": frozen.teacher.width}
            model.predict(tuple(widths[name] for name in model.config.targets))
        super().__init__(run, images, frozen, model, figures)

    def objective(self, trained: TrainedModule, batch: Batch, position: StepPosition) -> tuple[Tensor, Terms]:
        if trained is self.adversary.trained:
            return self.adversary.discriminator_objective(position)
        images, hidden = from_uint8(batch.inputs), self._hidden(batch, position)
        out: MAEOutput = trained.module(images, hidden=hidden, perturbation=self.perturbation(batch, position))
        objective, terms = self.image_losses(out.images, images, batch, position)
        for name, prediction in out.predictions.items():
            terms[name] = masked_loss(prediction, self._target(name, images), hidden)
            objective = objective + self.model.config.target_weight * terms[name]
        if hidden is None and self.model.masked is not None:
            objective = objective + 0.0 * self.model.masked.mask_token.sum()  # DDP waits for every gradient
        return objective, terms

    def _hidden(self, batch: Batch, position: StepPosition) -> Tensor | None:
        """The hidden patches of a micro-batch, bool (b, P); None where all are seen."""
        c = self.model.config
        if c.hidden[1] == 0 or (c.hidden_until is not None and position.epoch >= c.hidden_until):
            return None
        seed = derive_seed(self.run.config.seed, "hidden", position.step)
        return hidden_patches(batch.ids, area(self.model.patch_grid), c.hidden, seed)

    def _target(self, name: str, images: Tensor) -> Tensor:
        """(b, P, F) without gradient."""
        grid = self.model.patch_grid
        return hog(images, grid) if name == "hog" else self.frozen.teacher.patches(images, grid).detach().float()
