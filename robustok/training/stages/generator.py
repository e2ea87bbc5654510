"""The two plain stages: the classifier that stands in for frozen networks, and the generator."""

from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...config import DiscriminatorConfig, TrainingConfig
from ...core.random import NOISE, derive_seed, keyed_words, to_uniform
from ...data.images import Images
from ...data.loader import Batch
from ...data.tokens import TokenSet
from ...data.transforms import from_uint8
from ...models.frozen.classifier import Classifier
from ...models.generators.rar import RAR, random_orders
from ..run import Run
from ..schedules import cosine_rate, random_order_share
from ..stage import Player, Stage, Terms, When, wrap

TABLES = ("embed", "token", "codebook", "level")  # parameters of these names are looked up, not multiplied with


def make_player(name: str, module: nn.Module, settings: TrainingConfig | DiscriminatorConfig, run: Run, rate) -> Player:
    """A network with its AdamW over what learns in it: weight decay on matrices only, fused on a GPU."""
    decayed, others = [], []
    for path, parameter in module.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim > 1 and not any(table in path for table in TABLES)
            (decayed if matrix else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
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
        self.players = [make_player("classifier", self.model, self.training, run, rate)]

    def model_config(self) -> dict:
        return self._shape

    def objective(self, player: Player, batch: Batch, when: When) -> tuple[Tensor, Terms]:
        logits = player.module(from_uint8(batch.inputs)).float()
        loss = F.cross_entropy(logits, batch.labels)
        return loss, {"loss": loss, "accuracy": (logits.argmax(1) == batch.labels).float().mean()}


class TokenSplit:
    """Token shards as the loader reads them: `load` gives tokens (n, L) int64."""

    def __init__(self, tokens: TokenSet):
        self.tokens, self.labels, self.ids = tokens.tokens, tokens.labels, tokens.ids

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, rows: Tensor, *, seed: int | None = None) -> Tensor:
        return torch.from_numpy(self.tokens[rows.numpy()].astype("int64"))


class GeneratorStage(Stage):
    """Trains RAR: cross-entropy of each token given those before it, in a random or the raster order (section 5)."""

    name = sections = "generator"
    kind = "rar"
    augment = False

    def __init__(self, run: Run, model: RAR, tokens: TokenSet):
        self.training, self.order, self.seed = run.config.generator_training, run.config.order, run.config.seed
        self.split, self.model = TokenSplit(tokens), model
        rate = rate_of(self.training, len(self.split) // self.training.batch_size)
        self.players = [make_player("generator", self.model, self.training, run, rate)]

    def model_config(self) -> dict:
        return asdict(self.model.config)

    def objective(self, player: Player, batch: Batch, when: When) -> tuple[Tensor, Terms]:
        seed = derive_seed(self.seed, "orders", when.step)
        orders = random_orders(seed, batch.ids, self.model.num_tokens, random_order_share(self.order, when.epoch))
        dropped = to_uniform(keyed_words(seed, NOISE, batch.ids, 0)[0]) < self.model.config.class_dropout
        classes = batch.labels.masked_fill(dropped, self.model.num_classes)
        logits = player.module(batch.inputs, classes, orders)
        targets = batch.inputs.gather(1, orders)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        return loss, {"loss": loss, "accuracy": (logits.argmax(-1) == targets).float().mean()}
