"""Two decoders of one tokenizer, as before and after post-training, on the same latents or tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..core.errors import UserError
from ..data.rows import tokenizer_hash
from ..models.interfaces import LoadedTokenizer
from .compare import compare
from .features.measuring import distance_name
from .intervals import distance_of_rows
from .reconstruction import evaluate_reconstruction
from .robustness import robustness
from .statistics import ImageStatistics, collect
from .streams import ImageStream


@dataclass
class DecoderFigures:
    """What was found about one decoder."""

    name: str
    figures: dict[str, float]  # rfid, pfid or nfid, ... of the images, then what it was compared by, of the samples;
    # distances are Estimates, as far as their intervals are known
    samples: ImageStatistics
    pictures: Tensor  # uint8 (n, 3, H, W), some of the samples


def refuse_other_latents(before: LoadedTokenizer, after: LoadedTokenizer, names: tuple[str, str]) -> None:
    """Raises UserError where the encoder sides of two tokenizers differ."""
    if tokenizer_hash(before) != tokenizer_hash(after):
        raise UserError(
            f"{names[0]} and {names[1]}: their encoders or codebooks differ, so that no latents are latents of both; "
            "expected one tokenizer before and after post-training, which changes the decoder alone"
        )


def evaluate_decoder(
    tokenizer: LoadedTokenizer,
    name: str,
    images: ImageStream,
    samples: ImageStream,
    reference: ImageStatistics,
    network: Callable,
    *,
    robust: bool = True,
) -> DecoderFigures:
    """Reconstruction of `images`, robustness to wrong latents if asked for, and `samples` against the reference.

    samples: those that this decoder makes of what a generator made.
    """
    distance = distance_name(network.protocol).lower()
    plain = evaluate_reconstruction(tokenizer, images, network)
    figures = {f"r{distance}": plain.rfid, "psnr": plain.psnr, "ssim": plain.ssim}
    found = robustness(tokenizer, lambda: images, network) if robust else None
    if found is not None:
        figures |= found.estimates(distance)
    statistics = collect(samples, network)
    figures |= {_generated(key): value for key, value in compare(statistics, reference).items()}
    if statistics.features is not None and len(statistics.features) == statistics.count:
        figures[f"g{distance}"] = distance_of_rows(statistics.features, reference.pool)
    return DecoderFigures(name, figures, statistics, next(iter(samples))[:24].cpu())


def _generated(key: str) -> str:
    """gFID for the FID of generated images, and so its unbiased companions; other figures keep their names."""
    return f"g{key}" if key in ("fid", "fd", "fid_inf", "fd_inf", "kd", "mind") else key
