"""pFID: how well a tokenizer's decoder tolerates wrong tokens, before a generator is trained (METHOD.md section 4).

Every image is reconstructed with a share alpha of its tokens replaced by one of the delta nearest codes; pFID is the
mean FID against the input images over five alphas and three deltas. The same with tokens perturbed in another way is
not pFID and has another name (`perturbed_name`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.errors import UserError
from ..ops import Similarity
from ..ops.perturbation import CODE_KINDS, Kind, uses
from .intervals import Estimate, FoldedStatistics, distances
from .judging import FoldedRows, Unbiased, unbiased_reconstructions
from .metrics.moments import FeatureStatistics
from .passes import FeatureMoments, first_images, in_batches
from .perturbing import CLEAN, Setting, device_of, perturbed_images

ALPHAS = (0.9, 0.8, 0.7, 0.6, 0.5)
PFID_KINDS: tuple[Kind, ...] = (*CODE_KINDS, "mask")  # perturbations of tokens, which need a codebook
PUBLISHED_DELTAS = {16384: (200, 280, 360), 8192: (100, 140, 180), 4096: (50, 70, 90), 1024: (10, 15, 20)}


class PFID(NamedTuple):
    """Result of `pfid`."""

    table: dict[Setting, float]  # (alpha, delta) -> FID against the input images
    mean: Estimate  # over the table: pFID, where kind is "neighbor"; a float with an interval
    rfid: Estimate  # FID of the reconstructions under CLEAN, from the same pass; likewise
    count: int  # images
    kind: Kind = "neighbor"  # of perturbation
    unbiased: Unbiased = Unbiased()  # where asked for: other distances of the same reconstructions


def perturbed_name(kind: Kind, distance: str = "FID") -> str:
    """What the distance of perturbed reconstructions is called: pFID for the paper's kind alone, else "uniform FID"."""
    return f"p{distance}" if kind == "neighbor" else f"{kind} {distance}"


def delta_set(codebook_size: int) -> tuple[int, ...]:
    """The three neighbour-set sizes of the protocol: as published, else in proportion to K = 16384, at least 1."""
    scaled = tuple(max(1, round(delta * codebook_size / 16384)) for delta in PUBLISHED_DELTAS[16384])
    return PUBLISHED_DELTAS.get(codebook_size, scaled)


def quick_settings(codebook_size: int, kind: Kind = "neighbor") -> tuple[Setting, ...]:
    """Three of the settings: lowest, middle and highest alpha, each with another delta, so both factors balance."""
    deltas = deltas_of(kind, codebook_size)
    return tuple(zip(ALPHAS[::2], deltas if len(deltas) == 3 else 3 * deltas, strict=True))


def deltas_of(kind: Kind, codebook_size: int) -> tuple[int, ...]:
    """How many codes a replacement is taken from, in the settings of a kind: all K for "uniform"; 1 for "mask", which
    has one value.
    """
    return delta_set(codebook_size) if uses(kind, "delta") else (codebook_size if kind == "uniform" else 1,)


def pfid(
    tokenizer,
    images: Tensor | Iterable[Tensor],
    features: Callable,
    *,
    kind: Kind = "neighbor",
    alphas: Sequence[float] = ALPHAS,
    deltas: Sequence[int] | None = None,
    seed: int = 0,
    neighbors: str = "latent",
    unperturbed: Similarity | None = None,
    batch_size: int = 64,
    unbiased: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PFID:
    """pFID of a tokenizer: every image encoded once, decoded under each (alpha, delta), beta = 1.

    Args:
        tokenizer: any object with `encode` (images in [-1, 1] -> z (B, L, D)), `decode` (codes (B, L, D) -> images),
            `codebook` (K, D) and `similarity`, how they are compared, or `normalize`, whether unit vectors are. One
            that is not perturbed code by code says so in `perturbable` (models/interfaces.py).
        images: uint8 (N, 3, H, W), or an iterable of uint8 batches (B, 3, H, W). Image i of the stream has sample id i.
        features: uint8 (B, 3, H, W) -> object whose `.features` are (B, F); `InceptionFeatures` as published.
        kind: how tokens are perturbed (`robustok.perturb`): "neighbor" is pFID; "uniform", "adversarial" and "mask" are
            other figures of the same images and tokens. "adversarial" takes the gradient of the squared error.
        alphas, deltas: the settings are all pairs; deltas None: `delta_set(K)`. Kinds without a delta have one value in
            its place (`deltas_of`) and take no other.
        seed: of the perturbation. Tokens and ranks are those of `vq_perturb(..., alpha, beta=1, delta, seed)`.
        neighbors: "latent" (codes nearest to z) or "code" (codes nearest to the code of z).
        unperturbed: how tokens that are not perturbed find their code; None: as the tokenizer compares. "l2" with IBQ,
            which takes the largest inner product, is a variant that published figures of it may be of.
        batch_size: images a forward pass, where `images` is one tensor.
        unbiased: also take distances that few images do not raise (evaluation/judging.py), while features are kept.
        progress: called after each batch with the number of images done.

    Raises UserError for fewer than two images, for a tokenizer without a codebook or that cannot be perturbed so, and
    for settings that the kind does not have.
    """
    known = deltas_of(_checked(kind), _codebook_size(tokenizer))
    if deltas is not None and not uses(kind, "delta"):
        raise UserError(f"deltas: the perturbation {kind!r} has no delta; leave them out")
    settings = [(alpha, delta) for alpha in alphas for delta in (known if deltas is None else deltas)]
    how = {"seed": seed, "neighbors": neighbors, "unperturbed": unperturbed, "kind": kind}
    return _measure(tokenizer, in_batches(images, batch_size), features, settings, how, progress, unbiased)


def quick_pfid(
    tokenizer,
    images: Tensor | Iterable[Tensor],
    features: Callable,
    *,
    kind: Kind = "neighbor",
    max_images: int = 5000,
    seed: int = 0,
    neighbors: str = "latent",
    unperturbed: Similarity | None = None,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> PFID:
    """An estimate of `pfid` for use during training: three settings, the first `max_images` images.

    FID of fewer images is larger: compare quick figures only with quick figures of the same images.
    """
    batches = first_images(in_batches(images, batch_size), max_images)
    settings = quick_settings(_codebook_size(tokenizer), _checked(kind))
    how = {"seed": seed, "neighbors": neighbors, "unperturbed": unperturbed, "kind": kind}
    return _measure(tokenizer, batches, features, settings, how, progress)


def _measure(tokenizer, batches, features, settings, how: dict, progress, unbiased: bool = False) -> PFID:
    how |= {"progress": progress, "statistics": FoldedRows if unbiased else FoldedStatistics}
    found = perturbed_moments(tokenizer, batches, features, settings, **how)
    if found.originals.count < 2:
        raise UserError(f"images: found {found.originals.count}, expected at least two")
    of = distances(found.settings, found.originals)
    table = {setting: of[setting] for setting in settings}
    others = Unbiased()
    if unbiased:
        wrong = [found.settings[setting] for setting in settings]
        others = unbiased_reconstructions(found.settings[CLEAN], wrong, found.originals)
    return PFID(table, Estimate.mean(table.values()), of[CLEAN], found.originals.count, how["kind"], others)


class PerturbedMoments(NamedTuple):
    """Moments of the features of images, and of their reconstructions under each setting."""

    originals: Any  # of the kind of statistics that was asked for
    settings: dict[Setting, Any]


@torch.inference_mode()
def perturbed_moments(
    tokenizer,
    batches: Iterable[Tensor],
    features: Callable,
    settings: Sequence[Setting],
    *,
    first_id: int = 0,
    statistics: Callable[..., Any] = FeatureStatistics,
    progress: Callable[[int], None] | None = None,
    **how: Any,
) -> PerturbedMoments:
    """Moments of at least one image and of its reconstructions under CLEAN and each setting, encoded once.

    The sample ids of the images count from first_id, so that moments of parts of a set can be merged to those of the
    whole. statistics: `FeatureStatistics`, or `FoldedStatistics` where intervals are wanted. how: the other arguments
    of `perturbed_images`.

    Images wait on the device of the tokenizer until there are enough for the network (`FullBatches`), those of each
    setting by themselves: 0.9 GB of 17 times 256 images of 256 x 256 pixels.
    """
    originals = FeatureMoments(features, statistics)
    moments = {setting: FeatureMoments(features, statistics) for setting in (CLEAN, *settings)}
    done = 0
    for batch in batches:
        batch = batch.to(device_of(tokenizer), non_blocking=True)
        ids = torch.arange(first_id + done, first_id + done + len(batch), device=batch.device)
        originals.add(batch)
        for setting, images in perturbed_images(tokenizer, batch, moments, sample_ids=ids, **how):
            moments[setting].add(images)
        done += len(batch)
        if progress:
            progress(done)
    if done == 0:
        raise UserError("images: found 0, expected at least two")
    return PerturbedMoments(originals.finish(), {setting: found.finish() for setting, found in moments.items()})


def _codebook_size(tokenizer) -> int:
    codebook = getattr(tokenizer, "codebook", None)
    if codebook is None:
        raise UserError("pFID needs a tokenizer with a codebook; continuous ones have no neighbours to draw from")
    return codebook.shape[-2]


def _checked(kind: Kind) -> Kind:
    if kind not in PFID_KINDS:
        hint = "; noise on latents is measured by noise_fid" if kind in ("gaussian", "interpolate") else ""
        raise UserError(f"kind: found {kind!r}, expected one of {', '.join(PFID_KINDS)}{hint}")
    return kind
