"""How much a run writes to its disk, and the disk's word on it before anything is trained."""

from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from ..config import RunConfig, TrainingConfig
from ..core.errors import UserError
from ..core.files import free_bytes
from ..core.paths import given_path
from ..data.images import Images
from ..data.transforms import VIEWS
from ..models.discriminator import Discriminator
from ..models.frozen.classifier import Classifier
from ..models.frozen.dino import load_backbone
from ..models.frozen.networks import from_classifier
from ..models.interfaces import is_discrete
from .outline import Outline

STATES = 4  # a weight is stored with its average and the two of AdamW
FLOAT, TOKEN, NUMBERS = 4, 2, 16  # bytes of a value, a token, and of the label and the id of a row


def needed_bytes(run: Outline) -> dict[str, int]:
    """Bytes that the stages hold on disk at most, all checkpoints that are kept and the one being written included."""
    c, images, stages, tokenizer = run.config, run.images, run.stages, run.tokenizer
    discriminator = _discriminator(c, images) if c.losses.adversarial else nn.Module()
    modes, rows = len(c.pairs.modes), len(images.train)
    row = _row_bytes(tokenizer)
    found = {
        "classifier": _checkpoints(c.classifier, run.classifier),
        "tokenizer": _checkpoints(c.tokenizer_training, tokenizer, discriminator),
        "tokens": rows * VIEWS[c.data.token_views] * row,
        "pairs": rows * c.pairs.per_image * row * len({"direct", *c.pairs.modes}),
        "discriminator": _checkpoints(c.post_training, discriminator),
        "post": _checkpoints(c.post_training, tokenizer, discriminator) * modes,
    }
    if "generator" in stages:
        found["generator"] = _checkpoints(c.generator_training, run.generator)
    return {stage: size for stage, size in found.items() if stage in stages}


def check_space(run: Outline) -> str:
    """What the run needs and has, in a sentence. Raises UserError where the disk is too small for what is not there
    yet.
    """
    folder = given_path(run.config.runs) / run.config.name
    needed, free = sum(needed_bytes(run).values()), free_bytes(folder)
    said = f"{folder}: the run takes up to {size_in_words(needed)}, {size_in_words(free)} are free"
    if needed - _bytes_below(folder, run.stages) > free:
        raise UserError(
            f"{said}; free some space, give another --runs, or keep fewer checkpoints (--tokenizer_training.keep 1)"
        )
    return said


def _checkpoints(training: TrainingConfig, *modules: nn.Module) -> int:
    """The newest ones, the best one, and the next one while it is written."""
    values = sum(tensor.numel() for module in modules for tensor in module.state_dict().values())
    return values * FLOAT * STATES * (training.keep + 2)


def _discriminator(c: RunConfig, images: Images) -> nn.Module:
    if c.frozen.dino:
        backbone = load_backbone(c.frozen.dino)
    else:
        backbone = from_classifier(Classifier(images.num_classes, images.train.image_size)).backbone
    with torch.device("meta"):
        return Discriminator(backbone)


def _row_bytes(tokenizer) -> int:
    """Of the tokens or latents of an image, with its label and id."""
    if not is_discrete(tokenizer):
        count, width = tokenizer.latent_shape
        return count * width * FLOAT + NUMBERS
    codebooks = len(tokenizer.codebook) if tokenizer.codebook.ndim > 2 else 1
    return tokenizer.num_tokens * codebooks * TOKEN + NUMBERS


def _bytes_below(folder: Path, stages: Collection[str]) -> int:
    """Bytes that these stages hold already; their folders are STAGE and STAGE-VARIANT."""
    folders = [path for path in folder.glob("*") if path.name.partition("-")[0] in stages]
    return sum(file.stat().st_size for path in folders for file in path.rglob("*") if file.is_file())


def size_in_words(count: float) -> str:
    """A number of bytes in three digits: 1.23 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
