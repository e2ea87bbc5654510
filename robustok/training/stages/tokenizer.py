"""Main training of the tokenizer (METHOD.md sections 2 and 3)."""

from collections import deque

import torch
from torch import Tensor, nn

from ...core import distributed
from ...core.errors import UserError
from ...core.random import derive_seed, narrow_seed
from ...data.images import Images, ImageSplit
from ...data.loader import Batch
from ...data.transforms import from_uint8
from ...models.frozen.networks import FrozenNetworks
from ...models.interfaces import Terms
from ...models.tokenizers.dead_codes import count_unused, restart_dead
from ...models.tokenizers.quantized import TokenizerOutput
from ...models.tokenizers.vit_tokenizer import ViTTokenizer
from ..losses import semantic_loss
from ..optimizers import TrainedModule
from ..run import Run
from .base import StepPosition
from .decoder import MainTrainingStage


class TokenizerStage(MainTrainingStage):
    """All losses; reconstruction, perceptual and adversarial terms alone see perturbed latents.

    The semantic loss contrasts the images of one micro-batch over all processes. A teacher narrower than the encoder
    fills the first channels of its feature.
    """

    def __init__(self, run: Run, images: Images, frozen: FrozenNetworks, model: ViTTokenizer, figures=None):
        c = run.config
        if frozen.teacher.width > c.tokenizer.width:
            raise UserError(
                f"tokenizer.width: found {c.tokenizer.width}, expected at least the teacher's {frozen.teacher.width}: "
                "its class feature goes through the tokenizer's quant_conv"
            )
        super().__init__(run, images, frozen, model, figures)
        self._recent_usage: deque[Tensor] = deque()
        self._window = 1  # entries of it when it is full
        self._quantized = False  # whether they are of latents that were quantised
        codes = model.codebook
        self._unused = torch.zeros(codes.shape[-2], dtype=torch.int64, device=codes.device)  # steps, of each code
        self._step: list[tuple[Tensor, Tensor]] = []  # latents and usage of this step's micro-batches so far

    def begin_step(self, position: StepPosition) -> dict[str, Tensor]:
        if position.step == 0 or position.step != self.run.config.codebook.continuous_steps:
            return {}
        set_codebook_by_kmeans(self.model, self.dataset, self.run)
        self._recent_usage.clear()  # of codes that are no more
        codes = self.model.codebook
        return self._of_codebook(torch.ones(len(codes), dtype=torch.bool, device=codes.device))

    def end_step(self, position: StepPosition) -> dict[str, Tensor]:
        c = self.run.config
        if not self._step:
            return {}
        latents, usage = zip(*self._step, strict=True)
        self._step = []
        count_unused(self._unused, torch.stack(usage).sum(0))
        seed = derive_seed(c.seed, "restart", position.step)
        rows = self.model.quantizer.unit(torch.cat(latents).flatten(0, 1))
        dead = restart_dead(self.model.codebook, self._unused, c.codebook.restart_dead_after, rows, seed)
        return self._of_codebook(dead)

    def _of_codebook(self, codes: Tensor) -> dict[str, Tensor]:
        """A mask over the codebook's rows, by the name of the parameter that holds them."""
        return {name: codes for name, p in self.model.named_parameters() if p is self.model.codebook}

    def extra_state(self) -> dict[str, Tensor]:
        restarts = self.run.config.codebook.restart_dead_after is not None
        return super().extra_state() | ({"unused_codes": self._unused} if restarts else {})

    def objective(self, trained: TrainedModule, batch: Batch, position: StepPosition) -> tuple[Tensor, Terms]:
        if trained is self.adversary.trained:
            return self.adversary.discriminator_objective(position)
        images, weights = from_uint8(batch.inputs), self.run.config.losses
        quantize = position.step >= self.run.config.codebook.continuous_steps
        perturbation = self.perturbation(batch, position)
        out: TokenizerOutput = trained.module(images, perturbation=perturbation, quantize=quantize)
        objective, terms = self.image_losses(out.images, images, batch, position)
        terms |= {"vq": out.vq_loss, "commit": out.commit_loss}
        objective = objective + weights.vq * out.vq_loss + weights.commit * out.commit_loss
        if weights.semantic:
            terms["semantic"] = self._semantic_loss(out.z_q_clean, images)
            objective = objective + weights.semantic * terms["semantic"]
        if not quantize:
            objective = objective + 0.0 * self.model.codebook.sum()  # DDP waits for a gradient of every parameter
        self._quantized = quantize
        self._keep_usage(out.usage, images=len(images))
        if quantize and self.run.config.codebook.restart_dead_after is not None:
            self._step.append((out.latents.detach(), out.usage))
        terms["perturbed"] = (out.indices != out.nearest).float().mean()
        return objective, terms

    def _semantic_loss(self, latents: Tensor, images: Tensor) -> Tensor:
        with torch.no_grad():
            class_features = self.frozen.teacher(images)
        missing = self.model.config.width - self.frozen.teacher.width
        projected = self.model.project(nn.functional.pad(class_features, (0, missing)))
        return semantic_loss(latents.mean(1), projected)

    def _keep_usage(self, usage: Tensor, images: int) -> None:
        """Keeps the code counts of this process's last micro-batches, about the window's tokens in all."""
        window = self.run.config.codebook.usage_window // distributed.world()
        self._recent_usage.append(usage.detach())
        self._window = max(1, window // (images * self.model.num_tokens))
        while len(self._recent_usage) > self._window:
            self._recent_usage.popleft()

    def statistics(self, terms: dict[str, float]) -> dict[str, float]:
        """PSNR, share of codes in use, and the perplexity of their use, over the window."""
        counts = distributed.total(torch.stack(tuple(self._recent_usage)).sum(0).double())
        share = counts / counts.sum()
        return super().statistics(terms) | {
            "usage": (counts > 0).double().mean().item(),
            "perplexity": torch.special.entr(share).sum().exp().item(),
        }

    def alarms(self, record: dict[str, float]) -> dict[str, str]:
        """Collapse of the codebook: too few codes in use over a full window of quantised training."""
        codes, limit = self.model.codebook.shape[-2], self.run.config.codebook.alarm_usage
        if not self._quantized or len(self._recent_usage) < self._window or "usage" not in record:
            return {}
        of_one_codebook = self._recent_usage[-1].view(-1, codes)[0]
        tokens = self._window * int(of_one_codebook.sum()) * distributed.world()
        if record["usage"] >= limit * min(1.0, tokens / codes):
            return {}
        said = f"the codebook has collapsed: {record['usage']:.2%} of the {codes} codes are in use over the last"
        return {"codebook_collapse": f"{said} {tokens} tokens; docs/monitoring.md says what helps"}


@torch.no_grad()
def set_codebook_by_kmeans(model: ViTTokenizer, split: ImageSplit, run: Run, tokens_per_code: int = 64) -> None:
    """Codebook <- k-means centres of encoder outputs (on the scale of the codes), the same on all processes."""
    needed = -(-tokens_per_code * len(model.codebook) // model.num_latents)
    rows = torch.arange(min(needed, len(split)))
    model.eval()
    parts = [model.encode(from_uint8(split.load(part).to(run.device))) for part in rows.split(128)]
    codes = torch.empty_like(model.codebook)
    if distributed.is_main():
        from sklearn.cluster import KMeans

        latents = model.quantizer.unit(torch.cat(parts)).flatten(0, 1).float().cpu().numpy()
        seed = narrow_seed(run.config.seed)
        centres = KMeans(len(codes), n_init=1, random_state=seed, max_iter=50).fit(latents).cluster_centers_
        codes.copy_(torch.from_numpy(centres))
    distributed.barrier()  # k-means may take longer than a collective waits
    model.quantizer.set_codebook(distributed.from_main(codes))
    model.train()
