"""Latent perturbation of every kind, with one meaning of its arguments: codes replaced, noise added, tokens masked.

`vq_perturb` is the paper's kind, fused; this is the interface above it. Which tokens are chosen depends on (seed,
sample id, token) alone, as there: the same alpha and seed choose the same tokens for every kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..core.random import NOISE, keyed_normal, keyed_words, to_uniform
from .vq.checks import (
    DTYPES,
    check_delta,
    check_draw,
    check_images,
    check_neighbors,
    check_range,
    make_draw,
    resolve_similarity,
)
from .vq.draws import perturbation_words, rank, threshold
from .vq.nearest import vq_nearest, vq_neighbors
from .vq.perturb import vq_perturb
from .vq.reference import compared_rows
from .vq.types import Draw, Similarity

Kind = Literal["neighbor", "uniform", "adversarial", "gaussian", "interpolate", "mask"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CODE_KINDS: tuple[Kind, ...] = ("neighbor", "uniform", "adversarial")  # tokens are replaced by other codes
NOISE_KINDS: tuple[Kind, ...] = ("gaussian", "interpolate")
_NEEDS: dict[str, tuple[Kind, ...]] = {
    "codebook": CODE_KINDS,
    "delta": ("neighbor", "adversarial"),
    "gradient": ("adversarial",),
    "strength": NOISE_KINDS,
}
_TAKES = _NEEDS | {"codebook": KINDS, "neighbors": ("neighbor", "adversarial")}
_SCORE_BYTES = 64 << 20  # largest block of float64 products with the codes


class PerturbedLatents(NamedTuple):
    """Result of `perturb`."""

    z_q: Tensor  # (B, L, D) dtype of z: what the decoder gets
    chosen: Tensor  # (B, L) bool, the tokens that were perturbed (a code may have been replaced by itself)
    indices: Tensor | None  # (B, L) int64 after perturbation, -1 where the latent is no code; None without a codebook
    nearest: Tensor | None  # (B, L) int64 before perturbation; None without a codebook


def perturb(
    z: Tensor,
    codebook: Tensor | None = None,
    kind: Kind = "neighbor",
    *,
    seed: int | Tensor,
    alpha: float | Tensor = 1.0,
    beta: float = 1.0,
    delta: int | None = None,
    strength: float | Tensor | None = None,
    gradient: Tensor | None = None,
    sample_ids: Tensor | None = None,
    num_images: int | None = None,
    neighbors: str | None = None,
    similarity: Similarity | None = None,
    backend: str | None = None,
) -> PerturbedLatents:
    """Latents, some of them perturbed. In the first floor(beta * B) images each token is chosen with probability alpha.

    What a chosen token becomes, by `kind`:
        "neighbor": a code drawn uniformly from its delta nearest, as `vq_perturb` (arXiv 2509.12474, eqs. 2 to 4).
        "uniform": a code drawn uniformly from all K, which has next to nothing to do with the token.
        "adversarial": of its delta nearest codes e_k the one with the largest <gradient, e_k - e_nearest>: the one
            that raises the loss most to first order. Ties go to the nearer code.
        "gaussian": x + t n, with n standard normal for each coordinate and t = strength.
        "interpolate": (1 - t) x + t n.
        "mask": zeros, the same value for every tokenizer; no unit vector has it.
    With a codebook, x is the nearest code as the decoder gets it (of unit length for the similarity "cosine"), and the
    sum is neither quantised nor normalised again. Without one, x is the latent z.

    Args:
        z: latents (B, L, D), float32, float16 or bfloat16, any strides.
        codebook: codes (K, D) of any of these dtypes; None: continuous latents, for the last three kinds alone.
        seed: 0 to 2**63 - 1; a number or a 0-d int64 tensor. A training step passes its own.
        alpha: share of an image's tokens chosen, 0 to 1; a number or a 0-d tensor.
        beta: share of the batch's images perturbed, 0 to 1.
        delta: size of the set of near codes, 1 to K; "neighbor" (where it may be a 0-d tensor) and "adversarial".
        strength: t of the noise kinds, at least 0 and for "interpolate" at most 1, on the scale of the latents; a
            number, or one for each image (B,).
        gradient: (B, L, D), that of a loss by the decoder's input at the unperturbed codes: `decoding_gradient`.
        sample_ids: int64 (B,), who each image is; None: 0 to B - 1.
        num_images: how many images are perturbed, 0 to B, instead of floor(beta * B).
        neighbors: "latent" (None is this) or "code", as `vq_perturb`; the kinds with a delta.
        similarity: how latents and codes are compared: "cosine" (None is this), "l2" or "dot"; with a codebook.
        backend: as `vq_nearest`; with a codebook. None: "auto".

    Returns:
        PerturbedLatents. With a codebook the gradient is straight-through, as of `vq_perturb`: it reaches z as if
        nothing had been perturbed, through the normalisation of "cosine", and none reaches the codebook. Without one
        it is that of the arithmetic: t takes its share from "interpolate", and a masked token has none.

    Raises:
        TypeError, ValueError: as `vq_perturb`; an unknown kind, an argument that the kind needs and lacks, or one that
        it does not use.
    """
    given = {"codebook": codebook, "delta": delta, "gradient": gradient, "strength": strength, "neighbors": neighbors}
    _check_arguments(kind, given | {"similarity": similarity, "backend": backend})
    if codebook is None:
        _check_latents(z)
    else:
        check_images(z, codebook)
    draw = make_draw(z, alpha, beta, 1 if delta is None else delta, seed, sample_ids, num_images)
    check_draw(draw, 1 if codebook is None else len(codebook))
    if codebook is None:
        chosen, _ = _choose(z, draw)
        return PerturbedLatents(torch.where(chosen[..., None], _moved(kind, z, draw, strength), z), chosen, None, None)
    compared: dict[str, Any] = {"similarity": resolve_similarity(True, similarity), "backend": backend or "auto"}
    neighbors = neighbors or "latent"
    if kind == "neighbor":
        out = vq_perturb(z, codebook, beta=0.0, neighbors=neighbors, **draw._asdict(), **compared)
        return PerturbedLatents(out.z_q, _choose(z, draw)[0], out.indices, out.nearest)
    return _perturb_codes(z, codebook, kind, draw, (delta, neighbors), strength, gradient, compared)


def _perturb_codes(z, codebook, kind, draw, near, strength, gradient, compared) -> PerturbedLatents:
    """The other kinds on codes; near: (delta, neighbors) of "adversarial"."""
    chosen, word = _choose(z, draw)
    nearest = vq_nearest(z, codebook, **compared)
    codes = compared_rows(codebook.detach(), compared["similarity"])
    if kind in CODE_KINDS:
        other = rank(word, len(codebook))
        if kind == "adversarial":
            n = draw.num_images
            delta, neighbors = near
            sets = _neighbors(z[:n].detach(), codebook, nearest[:n], delta, neighbors, compared)
            other[:n] = _worst(sets, codes, _checked_gradient(gradient, z)[:n])
        indices = torch.where(chosen, other, nearest)
        value = codes[indices]
    else:
        indices = torch.where(chosen, -1, nearest)
        value = torch.where(chosen[..., None], _moved(kind, codes[nearest], draw, strength), codes[nearest])
    u = compared_rows(z, compared["similarity"])
    return PerturbedLatents((u + (value - u).detach()).to(z.dtype), chosen, indices, nearest)


def decoding_gradient(decode: Callable[[Tensor], Tensor], z_q: Tensor, images: Tensor) -> Tensor:
    """Gradient (B, L, D) of the squared error of decoded images by latents z_q: what "adversarial" needs.

    Args:
        decode: latents (B, L, D) -> images, each image from its own latents alone.
        z_q: the unperturbed codes, as the decoder gets them. images: what it should make of them, (B, 3, H, W).

    No parameter gets a gradient. The error is summed, so that an image's gradient does not depend on the batch.
    """
    with torch.inference_mode(False), torch.enable_grad():
        z_q = z_q.detach().clone().requires_grad_()
        error = (decode(z_q).float() - images.detach().clone()).square().sum()
        return torch.autograd.grad(error, z_q)[0]


def image_strengths(largest: float, seed: int | Tensor, sample_ids: Tensor) -> Tensor:
    """A strength for each image, float32 (B,), uniform in (0, largest): a decoder learns all strengths up to one."""
    return largest * to_uniform(keyed_words(seed, NOISE, sample_ids, 1)[0])


def uses(kind: Kind, argument: str) -> bool:
    """Whether a kind of perturbation has this argument of `perturb`, for those that not all kinds have."""
    return kind in _TAKES[argument]


def _check_arguments(kind: str, given: dict) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind: found {kind!r}, expected one of {', '.join(KINDS)}")
    for name, value in given.items():
        if value is None and kind in _NEEDS.get(name, ()):
            raise ValueError(f"{name}: found None, but the perturbation {kind!r} needs it")
        if value is not None and kind not in _TAKES.get(name, KINDS):
            raise ValueError(f"{name}: the perturbation {kind!r} does not use it; leave it out")
        if value is not None and name in ("similarity", "backend") and given["codebook"] is None:
            raise ValueError(f"{name}: without a codebook nothing is compared; leave it out")


def _check_latents(z: Tensor) -> None:
    if not isinstance(z, Tensor) or z.dtype not in DTYPES:
        found = getattr(z, "dtype", type(z).__name__)
        raise TypeError(f"z: found {found}, expected a tensor of float32, float16 or bfloat16")
    if z.ndim != 3:
        raise ValueError(f"z: found shape {tuple(z.shape)}, expected three dimensions (B, L, D)")


def _choose(z: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """The chosen tokens, bool (B, L), and the word (B, L) that stands for what replaces each."""
    w0, word = perturbation_words(draw.seed, draw.sample_ids, torch.arange(z.shape[1], device=z.device))
    images = torch.arange(len(z), device=z.device)[:, None]
    return (w0 < threshold(draw.alpha)) & (images < draw.num_images), word


def _moved(kind: Kind, x: Tensor, draw: Draw, strength: float | Tensor | None) -> Tensor:
    """Every vector of x (B, L, D) as it is where its token is chosen."""
    if kind == "mask":
        return torch.zeros_like(x)
    t = _checked_strength(kind, strength, x)
    noise = keyed_normal(draw.seed, NOISE, draw.sample_ids, tuple(x.shape[1:]))
    moved = (x if kind == "gaussian" else (1 - t) * x) + t * noise
    return moved.to(x.dtype)


def _checked_strength(kind: Kind, strength: float | Tensor | None, x: Tensor) -> Tensor:
    """The strength (B, 1, 1) or (1, 1, 1), float32."""
    t = torch.as_tensor(strength, dtype=torch.float32, device=x.device)
    if t.shape not in ((), x.shape[:1]):
        raise ValueError(f"strength: found shape {tuple(t.shape)}, expected a number or one for each image ({len(x)},)")
    check_range("strength", t, 0, 1 if kind == "interpolate" else math.inf)
    return t.reshape(-1, 1, 1)


def _checked_gradient(gradient: Tensor, z: Tensor) -> Tensor:
    if gradient.shape != z.shape or gradient.device != z.device:
        found = f"{tuple(gradient.shape)} on {gradient.device}"
        raise ValueError(f"gradient: found {found}, expected {tuple(z.shape)} on {z.device}, as z")
    return gradient.detach()


def _neighbors(z: Tensor, codebook: Tensor, nearest: Tensor, delta: int, neighbors: str, compared: dict) -> Tensor:
    """The sets (n, L, delta) that replacements are taken from. The first is the code of z itself, as `vq_perturb` has
    it: with "code" and the similarity "dot" it need not be the first by distance.
    """
    delta = check_delta(delta, codebook)
    check_neighbors(neighbors)
    near = vq_neighbors(z if neighbors == "latent" else codebook[nearest], codebook, delta, **compared)
    return torch.cat([nearest[..., None], near[..., 1:]], dim=-1)


def _worst(near: Tensor, codes: Tensor, gradient: Tensor) -> Tensor:
    """Of the codes near (n, L, delta) the one (n, L) with the largest inner product with the gradient (n, L, D)."""
    rows, sets = gradient.flatten(0, 1).double(), near.flatten(0, 1)
    size, columns = max(1, _SCORE_BYTES // (8 * len(codes))), codes.double().T
    parts = zip(rows.split(size), sets.split(size), strict=True)
    best = [of.gather(1, (block @ columns).gather(1, of).argmax(1, keepdim=True)) for block, of in parts]
    return torch.cat(best).reshape(near.shape[:2]) if best else near[..., 0]
