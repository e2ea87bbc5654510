"""How well a tokenizer gives images back: rFID, PSNR, SSIM, LPIPS and codebook usage, in one pass over the images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.progress import Progress
from ..data.transforms import from_uint8, to_uint8
from ..models.interfaces import is_discrete
from .explaining import Usage, code_counts, usage_of
from .intervals import Estimate, FoldedStatistics, distances
from .metrics.quality import psnr, ssim
from .passes import FeatureMoments
from .perturbing import device_of
from .streams import ImageStream


class Reconstruction(NamedTuple):
    """Result of `evaluate_reconstruction`; means over the images."""

    rfid: Estimate  # a float with an interval
    psnr: float  # dB; images given back exactly are left out of the mean
    ssim: float
    lpips: float | None  # None without its weights
    usage: Usage | None  # None: a continuous tokenizer has no codes
    count: int


@torch.inference_mode()
def reconstructed(tokenizer, images: Tensor, **wrong) -> Tensor:
    """uint8 images (B, 3, H, W) on any device -> their reconstructions, uint8 on the CPU.

    wrong: what the tokenizer's `reconstruct` does to latents: alpha and delta, or noise. Without any they are right.
    """
    return to_uint8(tokenizer.reconstruct(from_uint8(images.to(device_of(tokenizer))), **wrong)).cpu()


def mean_psnr(tokenizer, batches: Iterable[Tensor]) -> float:
    """Mean PSNR in dB of the reconstructions of uint8 batches (b, 3, H, W)."""
    return torch.cat([psnr(reconstructed(tokenizer, images), images) for images in batches]).mean().item()


@torch.inference_mode()
def evaluate_reconstruction(
    tokenizer, stream: ImageStream, network: Callable, perceptual: Callable | None = None
) -> Reconstruction:
    """rFID and image quality of a tokenizer's plain reconstructions.

    Original and reconstruction come from one transform (the stream's) in one pass, so no crop can differ between them.

    Args:
        stream: uint8 batches at the tokenizer's image size.
        network: uint8 (B, 3, H, W) -> `.features` (B, F).
        perceptual: LPIPS: two batches in [-1, 1] -> (B,) distances.

    Raises UserError for fewer than two images.

    rFID compares with the very images that were encoded, gFID with a reference set: the two are not comparable.
    """
    device, discrete = device_of(tokenizer), is_discrete(tokenizer)
    sides = [FeatureMoments(network, FoldedStatistics) for _ in range(2)]
    figures: dict[str, list[Tensor]] = {"psnr": [], "ssim": [], "lpips": []}
    counts = torch.zeros((), dtype=torch.int64)
    for batch in Progress(f"reconstructing {stream.name}", len(stream)).track(stream):
        original = batch.to(device, non_blocking=True)
        if discrete:
            tokens = tokenizer.tokenize(from_uint8(original))
            counts = counts + code_counts(tokenizer, tokens)
            restored = to_uint8(tokenizer.detokenize(tokens))
        else:
            restored = to_uint8(tokenizer.reconstruct(from_uint8(original)))
        for side, images in zip(sides, (restored, original), strict=True):
            side.add(images)
        figures["psnr"].append(psnr(restored, original))  # they stay on the device, which nothing waits for
        figures["ssim"].append(ssim(restored, original))
        if perceptual is not None:
            with torch.autocast(device.type, enabled=False):  # a caller's is meant for the tokenizer
                figures["lpips"].append(perceptual(from_uint8(restored), from_uint8(original)))
    restored_side, reference = (side.finish() for side in sides)
    means = {name: _mean(torch.cat(parts)) if parts else None for name, parts in figures.items()}
    usage = usage_of(counts) if discrete else None
    rfid = distances({"": restored_side}, reference)[""]
    return Reconstruction(rfid=rfid, usage=usage, count=reference.count, **means)


def _mean(values: Tensor) -> float:
    """Mean without infinite entries (images given back exactly); infinity where there is no other. NaN is kept."""
    known = values[~values.isposinf()]
    return float(known.mean()) if len(known) else float("inf")
