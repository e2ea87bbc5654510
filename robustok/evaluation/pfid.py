"""pFID: how well a tokenizer's decoder tolerates wrong tokens, before a generator is trained (METHOD.md section 4).

Every image is reconstructed with a share alpha of its tokens replaced by one of the delta nearest codes; pFID is the
mean FID against the input images over five alphas and three deltas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import UserError
from ..ops import Similarity
from .metrics.frechet import frechet_distance
from .metrics.moments import FeatureStatistics
from .perturbing import CLEAN, Setting, device_of, perturbed_images

ALPHAS = (0.9, 0.8, 0.7, 0.6, 0.5)
PUBLISHED_DELTAS = {16384: (200, 280, 360), 8192: (100, 140, 180), 4096: (50, 70, 90), 1024: (10, 15, 20)}


class PFID(NamedTuple):
    """Result of `pfid`."""

    table: dict[Setting, float]  # (alpha, delta) -> FID against the input images
    mean: float  # over the table: pFID
    rfid: float  # FID of the reconstructions under CLEAN, from the same pass
    count: int  # images


def delta_set(codebook_size: int) -> tuple[int, ...]:
    """The three neighbour-set sizes of the protocol: as published, else in proportion to K = 16384, at least 1."""
    scaled = tuple(max(1, round(delta * codebook_size / 16384)) for delta in PUBLISHED_DELTAS[16384])
    return PUBLISHED_DELTAS.get(codebook_size, scaled)


def quick_settings(codebook_size: int) -> tuple[Setting, ...]:
    """Three of the 15 settings: lowest, middle and highest alpha, each with another delta, so both factors balance."""
    return tuple(zip((0.9, 0.7, 0.5), delta_set(codebook_size), strict=True))


def pfid(
    tokenizer,
    images: Tensor | Iterable[Tensor],
    features: Callable,
    *,
    alphas: Sequence[float] = ALPHAS,
    deltas: Sequence[int] | None = None,
    seed: int = 0,
    neighbors: str = "latent",
    unperturbed: Similarity | None = None,
    batch_size: int = 50,
    progress: Callable[[int], None] | None = None,
) -> PFID:
    """pFID of a tokenizer: every image encoded once, decoded under each (alpha, delta), beta = 1.

    Args:
        tokenizer: any object with `encode` (images in [-1, 1] -> z (B, L, D)), `decode` (codes (B, L, D) -> images),
            `codebook` (K, D) and `similarity`, how they are compared, or `normalize`, whether unit vectors are. One
            that is not perturbed code by code says so in `perturbable` (models/interfaces.py).
        images: uint8 (N, 3, H, W), or an iterable of uint8 batches (B, 3, H, W). Image i of the stream has sample id i.
        features: uint8 (B, 3, H, W) -> object whose `.features` are (B, F); `InceptionFeatures` as published.
        alphas, deltas: the settings are all pairs; deltas None: `delta_set(K)`.
        seed: of the perturbation. Tokens and ranks are those of `vq_perturb(..., alpha, beta=1, delta, seed)`.
        neighbors: "latent" (codes nearest to z) or "code" (codes nearest to the code of z).
        unperturbed: how tokens that are not perturbed find their code; None: as the tokenizer compares. "l2" with IBQ,
            which takes the largest inner product, is a variant that published figures of it may be of.
        batch_size: images a forward pass, where `images` is one tensor.
        progress: called after each batch with the number of images done.

    Raises UserError for fewer than two images, and for a tokenizer without a codebook or that cannot be perturbed.
    """
    deltas = delta_set(_codebook_size(tokenizer)) if deltas is None else deltas
    settings = [(alpha, delta) for alpha in alphas for delta in deltas]
    return _measure(tokenizer, _batches(images, batch_size), features, settings, seed, neighbors, unperturbed, progress)


def quick_pfid(
    tokenizer,
    images: Tensor | Iterable[Tensor],
    features: Callable,
    *,
    max_images: int = 5000,
    seed: int = 0,
    neighbors: str = "latent",
    unperturbed: Similarity | None = None,
    batch_size: int = 50,
    progress: Callable[[int], None] | None = None,
) -> PFID:
    """An estimate of `pfid` for use during training: three settings, the first `max_images` images.

    FID of fewer images is larger: compare quick figures only with quick figures of the same images.
    """
    batches = _first(_batches(images, batch_size), max_images)
    settings = quick_settings(_codebook_size(tokenizer))
    return _measure(tokenizer, batches, features, settings, seed, neighbors, unperturbed, progress)


@torch.inference_mode()
def _measure(tokenizer, batches, features, settings, seed, neighbors, unperturbed, progress) -> PFID:
    reference, statistics, done = None, {}, 0
    for batch in batches:
        batch = batch.to(device_of(tokenizer))
        ids = torch.arange(done, done + len(batch), device=batch.device)
        original = features(batch).features
        if reference is None:
            dim, device = original.shape[1], original.device
            reference = FeatureStatistics(dim, device)
            statistics = {setting: FeatureStatistics(dim, device) for setting in [CLEAN, *settings]}
        reference.update(original)
        perturbed = perturbed_images(tokenizer, batch, statistics, seed, ids, neighbors, unperturbed)
        for setting, images in perturbed:
            statistics[setting].update(features(images).features)
        done += len(batch)
        if progress:
            progress(done)
    if done < 2:
        raise UserError(f"images: found {done}, expected at least two")
    distances = {setting: frechet_distance(s, reference) for setting, s in statistics.items()}
    table = {setting: distances[setting] for setting in settings}
    return PFID(table, sum(table.values()) / len(table), distances[CLEAN], done)


def _codebook_size(tokenizer) -> int:
    codebook = getattr(tokenizer, "codebook", None)
    if codebook is None:
        raise UserError("pFID needs a tokenizer with a codebook; continuous ones have no neighbours to draw from")
    return codebook.shape[-2]


def _batches(images: Tensor | Iterable[Tensor], batch_size: int) -> Iterable[Tensor]:
    return images.split(batch_size) if isinstance(images, Tensor) else images


def _first(batches: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    for batch in batches:
        if count <= 0:
            return
        yield batch[:count]
        count -= len(batch)
