"""nFID: how well a decoder tolerates noise on its latents; pFID's counterpart for continuous tokenizers.

No protocol of it is published; this one is our own. Noise is measured in standard deviations of the tokenizer's own
latents, channel by channel over all images and positions: a generator of latents works on latents of unit variance, and
only so do equal strengths mean equal noise for tokenizers whose latents differ in scale. The strengths are 0.1 to 0.5:
with Gaussian noise of half a standard deviation, a fifth of the variance of what is decoded is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import UserError
from ..data.latents import LatentMoments
from ..data.transforms import to_uint8
from ..ops import perturb
from ..ops.perturbation import NOISE_KINDS, Kind
from .intervals import Estimate, FoldedStatistics, distances
from .judging import FoldedRows, Unbiased, unbiased_reconstructions
from .passes import FeatureMoments, in_batches
from .perturbing import device_of
from .stored_latents import encode_all, slices

STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5)
QUICK_STRENGTHS = STRENGTHS[::2]
CLEAN_STRENGTH = 0.0


class NoiseFID(NamedTuple):
    """Result of `noise_fid`."""

    table: dict[float, float]  # strength -> FID against the input images
    mean: Estimate  # over the table: nFID, where kind is "gaussian"; a float with an interval
    rfid: Estimate  # FID of the reconstructions without noise, from the same pass; likewise
    count: int  # images
    std: Tensor  # (D,) float64: of the latents, channel by channel
    kind: Kind = "gaussian"  # of noise
    unbiased: Unbiased = Unbiased()  # where asked for: other distances of the same reconstructions


def noise_name(kind: Kind, distance: str = "FID") -> str:
    """What the distance of noisy reconstructions is called: nFID with Gaussian noise, else "interpolate FID"."""
    return f"n{distance}" if kind == "gaussian" else f"{kind} {distance}"


@torch.inference_mode()
def noise_fid(
    tokenizer,
    images: Tensor | Iterable[Tensor],
    features: Callable,
    *,
    kind: Kind = "gaussian",
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    batch_size: int = 64,
    unbiased: bool = False,
    progress: Callable[[int], None] | None = None,
) -> NoiseFID:
    """FID under matched latent noise: every image encoded once, decoded under each strength with noise on all latents.

    Args:
        tokenizer: any object with `encode` (images in [-1, 1] -> z (B, L, D)), `decode` (z -> images) and `device`. One
            with a codebook is measured on its codes, which are not quantised again after the noise.
        images: uint8 (N, 3, H, W), or an iterable of uint8 batches (B, 3, H, W). Image i of the stream has sample id i.
        features: uint8 (B, 3, H, W) -> object whose `.features` are (B, F); `InceptionFeatures` as published.
        kind: "gaussian": x + t n, or "interpolate": (1 - t) x + t n, for x = (z - mean) / std of each channel, n
            standard normal, as `robustok.perturb`; the decoder gets x back on the scale of z.
        strengths: t of each cell, at least 0, for "interpolate" at most 1.
        seed: of the noise, which is the same for every strength.
        batch_size: images a forward pass.
        unbiased: also take distances that few images do not raise (evaluation/judging.py), while features are kept.
        progress: called after each batch that is decoded with the number of images done.

    Latents are kept in a temporary file, 4 L D bytes an image. Raises UserError for fewer than two images, and for
    another kind or strength.
    """
    if kind not in NOISE_KINDS:
        raise UserError(f"kind: found {kind!r}, expected one of {', '.join(NOISE_KINDS)}; codes are perturbed by pfid")
    top = 1.0 if kind == "interpolate" else float("inf")
    if not strengths or not all(0 <= t <= top for t in strengths):
        limits = "0 to 1" if kind == "interpolate" else "at least 0"
        raise UserError(f"strengths: found {list(strengths)}, expected one or more of {limits}")
    statistics_of = FoldedRows if unbiased else FoldedStatistics
    latents, _, reference = encode_all(tokenizer, in_batches(images, batch_size), features, statistics=statistics_of)
    moments, device = LatentMoments.of(latents.array()), device_of(tokenizer)
    mean, std = (torch.from_numpy(values).float().to(device) for values in (moments.mean, moments.std))
    moments_at = {t: FeatureMoments(features, statistics_of) for t in (CLEAN_STRENGTH, *strengths)}
    for part in slices(len(latents), batch_size):
        z = latents.read(part).to(device, non_blocking=True)
        ids = torch.arange(part.start, part.stop, device=device)
        for t, moving in moments_at.items():
            noisy = z if t == 0 else mean + std * _noisy((z - mean) / std, kind, t, seed, ids)
            moving.add(to_uint8(tokenizer.decode(noisy)))
        if progress:
            progress(part.stop)
    statistics = {t: moving.finish() for t, moving in moments_at.items()}
    found = distances(statistics, reference)
    table = {t: found[t] for t in strengths}
    others = Unbiased()
    if unbiased:
        others = unbiased_reconstructions(statistics[CLEAN_STRENGTH], [statistics[t] for t in strengths], reference)
    return NoiseFID(
        table=table,
        mean=Estimate.mean(table.values()),
        rfid=found[CLEAN_STRENGTH],
        count=reference.count,
        std=torch.from_numpy(moments.std),
        kind=kind,
        unbiased=others,
    )


def _noisy(x: Tensor, kind: Kind, strength: float, seed: int, sample_ids: Tensor) -> Tensor:
    return perturb(x, kind=kind, strength=strength, seed=seed, sample_ids=sample_ids).z_q
