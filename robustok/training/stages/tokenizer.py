"""Main training of the tokenizer, and post-training of its decoder (METHOD.md sections 2, 3 and 6)."""

import math
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import asdict

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...core import distributed
from ...core.errors import UserError
from ...core.random import derive_seed
from ...data.images import Images, ImageSplit
from ...data.loader import Batch
from ...data.tokens import TokenSet
from ...data.transforms import from_uint8
from ...models.frozen.networks import FrozenNetworks
from ...models.tokenizers.quantized import TokenizerOutput
from ...models.tokenizers.quantizer import Perturbation
from ...models.tokenizers.vit_tokenizer import Tokenizer
from ..adversary import Adversary
from ..losses import reconstruction_loss, semantic_loss
from ..run import Run
from ..schedules import perturbation_strength
from ..stage import Player, Stage, Terms, When
from .generator import make_player, rate_of


class _DecoderStage(Stage):
    """What main training and post-training share: pixel losses and the adversary."""

    sections: str
    kind = "tokenizer"
    run: Run
    frozen: FrozenNetworks
    adversary: Adversary

    def model_config(self) -> dict:
        return asdict(self.model.config)

    def active(self, when: When) -> list[Player]:
        return self.players if self.adversary.is_active(when.epoch) else self.players[:1]

    def extra_state(self) -> dict[str, Tensor]:
        return {"lecam": self.adversary.lecam.state}

    def statistics(self, terms: dict[str, float]) -> dict[str, float]:
        return {"psnr": 10.0 * math.log10(4.0 / terms["reconstruction"])}  # peak to peak is 2

    def pixel_terms(self, decoded: Tensor, images: Tensor, batch: Batch, when: When) -> tuple[Tensor, Terms]:
        """Objective and terms of reconstruction, perceptual and, once it is on, adversarial loss against `images`."""
        weights = self.run.config.losses
        terms = {"reconstruction": reconstruction_loss(decoded.float(), images)}
        pixel = weights.reconstruction * terms["reconstruction"]
        if weights.perceptual:
            terms["perceptual"] = self.frozen.perceptual(decoded.float(), images).mean()
            pixel = pixel + weights.perceptual * terms["perceptual"]
        if not self.adversary.is_active(when.epoch):
            return pixel, terms
        objective, adversarial_terms = self.adversary.join(
            pixel, decoded, images, self.model.last_layer, batch.ids, when
        )
        return objective, terms | adversarial_terms


class TokenizerStage(_DecoderStage):
    """Main training: all losses, perturbed latents for reconstruction, perceptual and adversarial terms only.

    The semantic loss contrasts the images of one micro-batch over all processes. A teacher narrower than the encoder
    fills the first channels of its feature.
    """

    name = sections = "tokenizer"

    def __init__(self, run: Run, images: Images, frozen: FrozenNetworks, model: Tokenizer):
        c = run.config
        if frozen.teacher.width > c.tokenizer.width:
            raise UserError(
                f"tokenizer.width: found {c.tokenizer.width}, expected at least the teacher's {frozen.teacher.width}: "
                "its class feature goes through the tokenizer's quant_conv"
            )
        self.run, self.frozen, self.model = run, frozen, model
        self.training, self.split = c.tokenizer_training, images.train
        steps = len(self.split) // self.training.batch_size
        self.adversary = Adversary(run, frozen.backbone, c.losses, c.discriminator, start=c.losses.adversarial_start,
                                   epochs=self.training.epochs, steps_per_epoch=steps)  # fmt: skip
        own = make_player("tokenizer", model, self.training, run, rate_of(self.training, steps))
        self.players = [own, self.adversary.player]
        self._counts: deque[Tensor] = deque()

    def begin_step(self, when: When) -> list[str]:
        if when.step == 0 or when.step != self.run.config.codebook.continuous_steps:
            return []
        set_codebook_by_kmeans(self.model, self.split, self.run)
        return [name for name, p in self.model.named_parameters() if p is self.model.codebook]

    def objective(self, player: Player, batch: Batch, when: When) -> tuple[Tensor, Terms]:
        if player is self.adversary.player:
            return self.adversary.objective(player, when)
        images, weights = from_uint8(batch.inputs), self.run.config.losses
        quantize = when.step >= self.run.config.codebook.continuous_steps
        out: TokenizerOutput = player.module(images, perturbation=self._perturbation(batch, when), quantize=quantize)
        objective, terms = self.pixel_terms(out.images, images, batch, when)
        terms |= {"vq": out.vq_loss, "commit": out.commit_loss}
        objective = objective + weights.vq * out.vq_loss + weights.commit * out.commit_loss
        if weights.semantic:
            with torch.no_grad():
                class_features = self.frozen.teacher(images)
            missing = self.model.config.width - self.frozen.teacher.width
            projected = self.model.project(nn.functional.pad(class_features, (0, missing)))
            terms["semantic"] = semantic_loss(out.z_q_clean.mean(1), projected)
            objective = objective + weights.semantic * terms["semantic"]
        if not quantize:
            objective = objective + 0.0 * self.model.codebook.sum()  # DDP waits for a gradient of every parameter
        self._count(out.usage)
        terms["perturbed"] = (out.indices != out.nearest).float().mean()
        return objective, terms

    def _perturbation(self, batch: Batch, when: When) -> Perturbation:
        """This micro-batch's part of the step's perturbation: the first floor(beta * B) images of the global batch."""
        c = self.run.config.perturbation
        alpha, delta = perturbation_strength(c, when.epoch)
        count = int(c.beta * self.training.batch_size) - when.offset
        count = min(max(count, 0), len(batch.ids))
        seed = derive_seed(self.run.config.seed, "perturbation", when.step)
        return Perturbation(alpha, c.beta, delta, seed, count, batch.ids, c.neighbors)

    def _count(self, usage: Tensor) -> None:
        """Keeps the code counts of this process's last micro-batches, about the window's tokens in all."""
        window = self.run.config.codebook.usage_window // distributed.world()
        self._counts.append(usage.detach())
        tokens = self.training.batch_size // self.training.accumulate // distributed.world() * self.model.grid**2
        while len(self._counts) > max(1, window // tokens):
            self._counts.popleft()

    def statistics(self, terms: dict[str, float]) -> dict[str, float]:
        """PSNR, share of codes in use, and the perplexity of their use, over the window."""
        counts = distributed.total(torch.stack(tuple(self._counts)).sum(0).double())
        share = counts / counts.sum()
        return super().statistics(terms) | {
            "usage": (counts > 0).double().mean().item(),
            "perplexity": torch.special.entr(share).sum().exp().item(),
        }


class PairSplit:
    """Real images beside the generated tokens to decode into them; row p pairs tokens p with image p mod N."""

    def __init__(self, images: ImageSplit, pairs: TokenSet):
        repeat, rest = divmod(len(pairs), len(images))
        if rest or not torch.equal(pairs.ids, images.ids.repeat(repeat)):
            raise UserError(f"{pairs.folder}: its pairs belong to other images; remove the folder and make them again")
        self.images, self.pairs = images, pairs
        self.labels, self.ids = pairs.labels, pairs.ids

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, rows: Tensor, *, seed: int | None = None) -> Tensor:
        return self.images.load(rows % len(self.images))

    def tokens(self, rows: Tensor) -> Tensor:
        """Generated tokens (n, L) int64."""
        return torch.from_numpy(self.pairs.tokens[rows.cpu().numpy()].astype("int64"))


class _TokenDecoder(nn.Module):
    """Tokens (B, L) -> images, not clamped: the part of a tokenizer that post-training calls."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tokenizer.decode(self.tokenizer.quantizer.lookup(tokens))


class PostStage(_DecoderStage):
    """Post-training: only the decoder side learns, from generated tokens to the real images, without perturbation.

    The discriminator goes on from main training. `score_of` gives gFD of a tokenizer, for early stopping.
    """

    sections = "post"
    augment = False

    def __init__(self, run: Run, name: str, images: Images, pairs: TokenSet, frozen: FrozenNetworks, model: Tokenizer,
                 discriminator: dict[str, Tensor], lecam: Tensor, score_of: Callable[[Tokenizer], float]):  # fmt: skip
        c = run.config
        self.run, self.frozen, self.model, self.name = run, frozen, model, name
        self.training, self.stopping, self._score_of = c.post_training, c.stopping, score_of
        self.split = PairSplit(images.train, pairs)
        steps = len(self.split) // self.training.batch_size
        self.adversary = Adversary(run, frozen.backbone, c.losses, c.post_discriminator, start=0.0,
                                   epochs=self.training.epochs, steps_per_epoch=steps)  # fmt: skip
        if discriminator:
            self._continue_discriminator(discriminator)
        else:
            warnings.warn("the tokenizer came without a discriminator: post-training starts a new one", stacklevel=2)
        self.adversary.lecam.state.copy_(lecam)
        model.freeze_encoder()
        own = make_player("tokenizer", _TokenDecoder(model), self.training, run, rate_of(self.training, steps))
        self.players = [own, self.adversary.player]

    def _continue_discriminator(self, weights: dict[str, Tensor]) -> None:
        try:
            self.adversary.discriminator.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(
                "the tokenizer's discriminator was trained on another backbone than this run's: a released one needs "
                f"--frozen.dino FILE (DINO ViT-S/16)\n{error}"
            ) from None

    def objective(self, player: Player, batch: Batch, when: When) -> tuple[Tensor, Terms]:
        if player is self.adversary.player:
            return self.adversary.objective(player, when)
        tokens = self.split.tokens(batch.rows).to(batch.inputs.device)
        return self.pixel_terms(player.module(tokens), from_uint8(batch.inputs), batch, when)

    def score(self) -> float:
        return self._score_of(self.model)


@torch.no_grad()
def set_codebook_by_kmeans(model: Tokenizer, split: ImageSplit, run: Run, tokens_per_code: int = 64) -> None:
    """Codebook <- k-means centres of encoder outputs (on the scale of the codes), the same on all processes."""
    needed = -(-tokens_per_code * len(model.codebook) // model.grid**2)
    rows = torch.arange(min(needed, len(split)))
    model.eval()
    parts = [model.encode(from_uint8(split.load(part).to(run.device))) for part in rows.split(128)]
    codes = torch.empty_like(model.codebook)
    if distributed.is_main():
        from sklearn.cluster import KMeans

        latents = model.quantizer.unit(torch.cat(parts)).flatten(0, 1).float().cpu().numpy()
        centres = KMeans(len(codes), n_init=1, random_state=run.config.seed, max_iter=50).fit(latents).cluster_centers_
        codes.copy_(torch.from_numpy(centres))
    if distributed.world() > 1:
        dist.broadcast(codes, 0)
    model.quantizer.set_codebook(codes)
    model.train()
