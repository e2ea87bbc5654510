"""Which image of a large sample is of which class, and what tells one sample from another."""

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..models.interfaces import Generator, makes_latents

ORDER = "class by class"  # of samples: all of the first class, then all of the next


def class_list(
    count: int, num_classes: int, classes: Sequence[int] | None = None, weights: Sequence[float] | None = None
) -> Tensor:
    """The class of each of `count` images, int64 (count,), in the order of `classes`.

    Images of one class follow each other: what a generator computes for a class is then needed by few batches.

    Args:
        classes: those wanted; None: all.
        weights: the share of each class; None: equal shares. Shares are met to within one image (largest remainder).

    Raises UserError for a count below 1, a class out of range, or unusable weights.
    """
    if count < 1:
        raise UserError(f"n: found {count}, expected a positive number of images")
    classes = list(range(num_classes)) if classes is None else list(classes)
    wrong = [c for c in classes if not 0 <= c < num_classes]
    if wrong or not classes:
        raise UserError(
            f"classes: found {wrong or 'none'}, expected some of 0..{num_classes - 1}, which the generator knows"
        )
    weights = [1.0] * len(classes) if weights is None else list(weights)
    if len(weights) != len(classes) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise UserError(
            f"class_weights: found {weights}, expected {len(classes)} numbers from 0, one for each class, not all 0"
        )
    return torch.tensor(classes).repeat_interleave(torch.tensor(_shares(count, weights)))


def classes_as_in(labels: Tensor, count: int, num_classes: int) -> Tensor:
    """The class of each of `count` images, of which each class has its share of `labels`, int64 (N,).

    A distance of generated images from those that the labels are of would else be that of the classes' shares.
    """
    return class_list(count, num_classes, weights=torch.bincount(labels, minlength=num_classes).tolist())


def _shares(count: int, weights: list[float]) -> list[int]:
    """Whole numbers that sum to `count`, in proportion to the weights; the largest remainders are rounded up."""
    total = sum(map(Fraction, weights))
    exact = [Fraction(weight) * count / total for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[: count - sum(shares)]:
        shares[i] += 1
    return shares


def about_run(generator: nn.Module, tokenizer: nn.Module | None, classes: Tensor, settings: dict) -> dict:
    """What tells one sample from another, as a RowWriter takes it: weights, classes and settings."""
    return {
        "tokenizer": "none" if tokenizer is None else weights_hash(tokenizer),
        "generator": weights_hash(generator),
        **made_by(generator),
        "class_names": [str(c) for c in range(generator.num_classes)],
        "classes": hashlib.sha256(classes.numpy()).hexdigest(),
        **settings,
    }


def made_by(generator: Generator) -> dict[str, Any]:
    """What a writer of rows must know of what a generator makes."""
    if not makes_latents(generator):
        return {"codebook_size": generator.codebook_size}
    scale = {name: getattr(generator.config, name) for name in ("latent_mean", "latent_std")}
    return {"latent_shape": list(generator.latent_shape), **scale}


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over all parameters and buffers, in float32."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()
