"""Everything the benchmark measures of a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..core.errors import UserError
from ..core.progress import Progress
from ..models.interfaces import is_discrete
from .explaining import perturbed_reconstructions
from .features.measuring import distance_name
from .perturbing import CLEAN, Setting, how_perturbable, similarity_of
from .pfid import ALPHAS, PFID, delta_set, pfid, quick_pfid
from .reconstruction import Reconstruction, evaluate_reconstruction
from .streams import ImageStream, open_stream

STRIP = 6  # images shown


@dataclass
class TokenizerFigures:
    """What was found about one tokenizer."""

    name: str
    distance: str  # "FID", or "FD" for other features than Inception's
    codebook_size: int | None  # None: a continuous tokenizer
    transform: str  # what was done to the stored pixels
    plain: Reconstruction
    perturbed: PFID | None  # None: not asked for
    mixed: PFID | None  # where codes are compared by product: the variant whose unperturbed tokens are compared by L2
    quick: bool  # whether `perturbed` is the quick estimate
    originals: Tensor  # uint8 (n, 3, H, W): some of the images
    strips: dict[Setting, Tensor]  # their reconstructions under each (alpha, delta), the plain ones first

    @property
    def count(self) -> int:
        return self.plain.count


def evaluate_tokenizer(
    tokenizer,
    name: str,
    images: str,
    network: Callable,
    *,
    perceptual: Callable | None = None,
    pfid: str = "full",
    seed: int = 0,
) -> TokenizerFigures:
    """Reconstruction of the images at a path (see `open_stream`), pFID ("full", "quick" or "none"), and some pictures.

    A tokenizer whose codes are compared by product (IBQ) gets a second pFID, of the variant that published figures may
    be of: perturbed tokens are drawn from the largest products, all others go to the nearest code.
    Raises UserError as `check_evaluable`.
    """
    stream = check_evaluable(tokenizer, name, images, pfid)
    discrete, perturbable = is_discrete(tokenizer), how_perturbable(tokenizer) != "none"
    plain = evaluate_reconstruction(tokenizer, stream, network, perceptual)
    perturbed = mixed = None
    if pfid != "none":
        perturbed = _pfid(tokenizer, stream, network, pfid == "quick", seed)
    if pfid != "none" and similarity_of(tokenizer) == "dot":
        mixed = _pfid(tokenizer, stream, network, pfid == "quick", seed, unperturbed="l2")
    originals = next(iter(stream))[:STRIP]
    codes = tokenizer.codebook.shape[-2] if discrete else None
    settings = [CLEAN, *((alpha, delta_set(codes)[-1]) for alpha in ALPHAS[::-2] if perturbable)]
    strips = perturbed_reconstructions(tokenizer, originals, settings, seed)
    return TokenizerFigures(
        name=name,
        distance=distance_name(network.protocol),
        codebook_size=codes,
        transform=stream.transform,
        plain=plain,
        perturbed=perturbed,
        mixed=mixed,
        quick=pfid == "quick",
        strips=strips,
        originals=originals,
    )


def check_evaluable(tokenizer, name: str, images: str, pfid: str) -> ImageStream:
    """Opens the images for a tokenizer, before any work.

    Raises UserError where they cannot be opened, and where pFID is asked for and the tokenizer cannot be perturbed.
    """
    if pfid != "none" and not is_discrete(tokenizer):
        raise UserError(
            f"{name}: pFID perturbs codes, and this tokenizer's latents are continuous: FID under latent noise is its "
            "counterpart; evaluate it with --pfid none"
        )
    if pfid != "none" and how_perturbable(tokenizer) == "none":
        raise UserError(f"{name}: pFID is not defined for a tokenizer of this kind; evaluate it with --pfid none")
    return open_stream(images, tokenizer.image_size)


def _pfid(tokenizer, stream, network: Callable, quick: bool, seed: int, **variant) -> PFID:
    measure = quick_pfid if quick else pfid
    with Progress(f"perturbing {stream.name}", min(len(stream), 5000) if quick else len(stream)) as progress:
        return measure(tokenizer, stream, network, seed=seed, progress=progress.show, **variant)
