"""Everything the benchmark measures of a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..core.errors import UserError
from ..core.progress import Progress
from ..models.interfaces import Perturbable, is_discrete
from ..ops.perturbation import NOISE_KINDS, Kind
from .explaining import perturbed_reconstructions
from .features.measuring import distance_name
from .interpolation import InterpolationFID, Space, interpolation_fid
from .noise import QUICK_STRENGTHS, STRENGTHS, NoiseFID, noise_fid
from .passes import first_images
from .perturbing import CLEAN, Setting, how_perturbable, similarity_of
from .pfid import ALPHAS, PFID, delta_set, pfid, quick_pfid
from .reconstruction import Reconstruction, evaluate_reconstruction
from .streams import ImageStream

STRIP = 6  # images shown
QUICK_IMAGES = 5000  # of the quick estimates


@dataclass
class TokenizerFigures:
    """What was found about one tokenizer."""

    name: str
    distance: str  # "FID", or "FD" for other features than Inception's
    codebook_size: int | None  # None: a continuous tokenizer
    transform: str  # what was done to the stored pixels
    plain: Reconstruction
    perturbed: PFID | None  # pFID; None: not asked for, or the tokenizer is continuous
    mixed: PFID | None  # where codes are compared by product: the variant whose unperturbed tokens are compared by L2
    others: dict[Kind, PFID | NoiseFID]  # under the other perturbations asked for; of a continuous tokenizer noise
    interpolated: InterpolationFID | None  # iFID; None: not asked for
    quick: bool  # whether perturbed figures are quick estimates
    originals: Tensor  # uint8 (n, 3, H, W): some of the images
    strips: dict[Setting, Tensor]  # their reconstructions under each (alpha, delta), the plain ones first

    @property
    def count(self) -> int:
        return self.plain.count


def evaluate_tokenizer(
    tokenizer,
    name: str,
    stream: ImageStream,
    network: Callable,
    *,
    perceptual: Callable | None = None,
    pfid: str = "full",
    perturbations: Sequence[Kind] | None = None,
    ifid: Space | None = None,
    seed: int = 0,
) -> TokenizerFigures:
    """Everything about some images: reconstruction, perturbation, and some pictures.

    Args:
        stream: the images at the tokenizer's size.
        pfid: how far perturbed reconstructions are measured: in "full", a "quick" estimate, or "none".
        perturbations: which kinds; None: pFID's own for a tokenizer with codes, Gaussian noise (nFID) for a continuous
            one.
        ifid: iFID, with neighbours in this space; None: not measured.

    A tokenizer whose codes are compared by product (IBQ) gets a second pFID, of the variant that published figures may
    be of: perturbed tokens are drawn from the largest products, all others go to the nearest code.
    Raises UserError as `check_evaluable`.
    """
    check_evaluable(tokenizer, name, pfid, perturbations)
    discrete, how = is_discrete(tokenizer), how_perturbable(tokenizer)
    kinds = _kinds(tokenizer, pfid, perturbations)
    plain = evaluate_reconstruction(tokenizer, stream, network, perceptual)
    perturbed = mixed = None
    quick = pfid == "quick"
    if "neighbor" in kinds:
        perturbed = _pfid(tokenizer, stream, network, quick, seed)
        if similarity_of(tokenizer) == "dot":
            mixed = _pfid(tokenizer, stream, network, quick, seed, unperturbed="l2")
    others: dict[Kind, PFID | NoiseFID] = {}
    for kind in kinds:
        if kind != "neighbor":
            measure = _noise_fid if kind in NOISE_KINDS else _pfid
            others[kind] = measure(tokenizer, stream, network, quick, seed, kind=kind)
    interpolated = None if ifid is None else _ifid(tokenizer, stream, network, ifid)
    originals = next(iter(stream))[:STRIP]
    codes = tokenizer.codebook.shape[-2] if discrete else None
    settings = [CLEAN, *((alpha, delta_set(codes)[-1]) for alpha in ALPHAS[::-2] if how != "none")]
    strips = perturbed_reconstructions(tokenizer, originals, settings, seed)
    return TokenizerFigures(
        name=name,
        distance=distance_name(network.protocol),
        codebook_size=codes,
        transform=stream.transform,
        plain=plain,
        perturbed=perturbed,
        mixed=mixed,
        others=others,
        interpolated=interpolated,
        quick=quick,
        strips=strips,
        originals=originals,
    )


def check_evaluable(tokenizer, name: str, pfid: str, perturbations: Sequence[Kind] | None = None) -> None:
    """Raises UserError where the tokenizer cannot be perturbed as asked for; arguments as `evaluate_tokenizer`."""
    _check_kinds(name, _kinds(tokenizer, pfid, perturbations), is_discrete(tokenizer), how_perturbable(tokenizer))


def _kinds(tokenizer, pfid: str, perturbations: Sequence[Kind] | None) -> list[Kind]:
    """The kinds of perturbation that are measured."""
    if pfid == "none":
        return []
    return list(perturbations or ["neighbor" if is_discrete(tokenizer) else "gaussian"])


def _check_kinds(name: str, kinds: Sequence[Kind], discrete: bool, how: Perturbable) -> None:
    """Refuses perturbations that a tokenizer's latents cannot have."""
    of_codes = [kind for kind in kinds if kind not in NOISE_KINDS]
    if of_codes and not discrete:
        raise UserError(
            f"{name}: the perturbation {of_codes[0]!r} is of codes, and this tokenizer's latents are continuous; "
            f"expected --perturbation {' or '.join(NOISE_KINDS)}"
        )
    if of_codes and how == "itself" and of_codes != ["neighbor"]:
        raise UserError(f"{name}: a tokenizer with several codebooks is perturbed by near codes and noise alone")
    if of_codes and how == "none":
        raise UserError(
            f"{name}: codes of a tokenizer of this kind cannot be perturbed, so that pFID is not defined; evaluate it "
            "with --pfid none or --perturbation gaussian"
        )


def _pfid(tokenizer, stream, network: Callable, quick: bool, seed: int, **variant) -> PFID:
    measure = quick_pfid if quick else pfid
    with Progress(f"perturbing {stream.name}", min(len(stream), QUICK_IMAGES) if quick else len(stream)) as progress:
        return measure(tokenizer, stream, network, seed=seed, progress=progress.show, **variant)


def _noise_fid(tokenizer, stream, network: Callable, quick: bool, seed: int, kind: Kind) -> NoiseFID:
    images, strengths = (first_images(stream, QUICK_IMAGES), QUICK_STRENGTHS) if quick else (stream, STRENGTHS)
    with Progress(f"latent noise {stream.name}", min(len(stream), QUICK_IMAGES) if quick else len(stream)) as progress:
        given = {"kind": kind, "strengths": strengths, "seed": seed, "progress": progress.show}
        return noise_fid(tokenizer, images, network, **given)


def _ifid(tokenizer, stream, network: Callable, space: Space) -> InterpolationFID:
    with Progress(f"interpolating {stream.name}", len(stream)) as progress:
        return interpolation_fid(tokenizer, stream, network, space=space, progress=progress.show)
