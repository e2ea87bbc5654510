"""The two plain stages: the classifier that stands in for frozen networks, and the generator."""

from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import DiscriminatorConfig, RARConfig, TrainingConfig
from ..data.images import Images, Split
from ..data.loader import Batch
from ..data.tokens import TokenSet
from ..data.transforms import from_uint8
from ..models.classifier import Classifier
from ..models.rar import RAR
from .run import Run
from .schedules import cosine_rate, random_order_share
from .stage import Player, Stage, Terms, When, wrap


def make_player(
    name: str, module: nn.Module, parameters, settings: TrainingConfig | DiscriminatorConfig, run: Run, rate
) -> Player:
    """A network with its AdamW: weight decay on matrices only; fused on a GPU."""
    parameters = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = run.device.type == "cuda"
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=tuple(settings.betas), fused=fused)
    return Player(name, wrap(module, run), optimizer, rate, getattr(settings, "clip_norm", None))


def rate_of(settings: TrainingConfig, steps_per_epoch: int):
    """step -> learning rate of a stage. The first step is taken at the second's rate: RAR's warm-up starts at 0."""
    warmup = settings.warmup_epochs * steps_per_epoch
    return lambda step: cosine_rate(
        max(step, 1),
        total=settings.epochs * steps_per_epoch,
        warmup=warmup,
        peak=settings.lr,
        floor=settings.min_lr,
        first=settings.warmup_lr,
        decay_from=warmup if settings.decay_after_warmup else 0.0,
    )


class ClassifierStage(Stage):
    """Trains the small classifier with cross-entropy."""

    name = sections = kind = "classifier"

    def __init__(self, run: Run, images: Images):
        self.training, self.split = run.config.classifier, images.train
        self._shape = {"num_classes": images.num_classes, "image_size": images.train.image_size}
        torch.manual_seed(run.config.seed)
        self.model = Classifier(**self._shape).to(run.device)
        rate = rate_of(self.training, len(self.split) // self.training.batch_size)
        self.players = [make_player("classifier", self.model, self.model.parameters(), self.training, run, rate)]

    def model_config(self) -> dict:
        return self._shape

    def objective(self, player: Player, batch: Batch, when: When) -> tuple[Tensor, Terms]:
        logits = player.module(from_uint8(batch.inputs)).float()
        loss = F.cross_entropy(logits, batch.labels)
        return loss, {"loss": loss, "accuracy": (logits.argmax(1) == batch.labels).float().mean()}


class TokenSplit(Split):
    """The token shards of the training images, as the loader reads them: `load` gives tokens (n, L) int64."""

    def __init__(self, tokens: TokenSet):
        self.tokens = torch.from_numpy(tokens.tokens[:].astype("int64"))
        self.labels, self.ids = torch.as_tensor(tokens.labels), torch.as_tensor(tokens.ids)

    def load(self, rows: Tensor, *, seed: int | None = None) -> Tensor:
        return self.tokens[rows]


class GeneratorStage(Stage):
    """Trains RAR: cross-entropy of each token given those before it, in a random or the raster order (section 5)."""

    name = sections = "generator"
    kind = "rar"
    augment = False

    def __init__(self, run: Run, shape: RARConfig, tokens: TokenSet):
        self.training, self.order = run.config.generator_training, run.config.order
        self.split = TokenSplit(tokens)
        torch.manual_seed(run.config.seed)
        self.model = RAR(shape).to(run.device)
        rate = rate_of(self.training, len(self.split) // self.training.batch_size)
        self.players = [make_player("generator", self.model, self.model.parameters(), self.training, run, rate)]

    def model_config(self) -> dict:
        return asdict(self.model.config)

    def objective(self, player: Player, batch: Batch, when: When) -> tuple[Tensor, Terms]:
        orders = random_orders(*batch.inputs.shape, random_order_share(self.order, when.epoch), batch.inputs.device)
        dropped = torch.rand(len(batch.labels), device=batch.labels.device) < self.model.config.class_dropout
        classes = batch.labels.masked_fill(dropped, self.model.num_classes)
        logits = player.module(batch.inputs, classes, orders)
        targets = batch.inputs.gather(1, orders)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        return loss, {"loss": loss, "accuracy": (logits.argmax(-1) == targets).float().mean()}


def random_orders(count: int, length: int, share: float, device: torch.device) -> Tensor:
    """(count, length) int64: each row is a random permutation with probability `share`, else the raster order."""
    shuffled = torch.rand(count, length, device=device).argsort(1)
    raster = torch.arange(length, device=device).expand(count, length)
    return torch.where(torch.rand(count, 1, device=device) < share, shuffled, raster)
