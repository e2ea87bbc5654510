"""Perturbed tokens and reconstructions of images under many settings at once, for tokenizers of any family."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UserError
from ..data.transforms import from_uint8, to_uint8
from ..models.interfaces import Perturbable, is_discrete
from ..ops import Similarity, decoding_gradient, perturb, vq_nearest, vq_neighbors
from ..ops.perturbation import Kind, uses
from ..ops.vq import normalize_rows
from ..ops.vq.draws import perturbation_words, rank, threshold

NEIGHBOR_BYTES = 256 << 20  # largest list of neighbours held at once

Setting = tuple[float, int]  # (alpha, delta)
CLEAN: Setting = (0.0, 1)  # the setting that perturbs nothing


def how_perturbable(tokenizer) -> Perturbable:
    """How a tokenizer's latents can be perturbed. One that does not say is taken to have one codebook ("codes"), or to
    be continuous ("none") where it has no codebook.
    """
    return getattr(tokenizer, "perturbable", "codes" if hasattr(tokenizer, "codebook") else "none")


def similarity_of(tokenizer) -> Similarity:
    """How a tokenizer's latents and codes are compared. One that does not say it says `normalize`."""
    return getattr(tokenizer, "similarity", None) or ("cosine" if tokenizer.normalize else "l2")


def device_of(tokenizer) -> torch.device:
    """Where a tokenizer computes. One that does not say computes where its codebook is."""
    return tokenizer.device if hasattr(tokenizer, "device") else tokenizer.codebook.device


def perturbed_images(
    tokenizer,
    images: Tensor,
    settings: Iterable[Setting],
    seed: int,
    sample_ids: Tensor,
    neighbors: str = "latent",
    unperturbed: Similarity | None = None,
    kind: Kind = "neighbor",
) -> Iterator[tuple[Setting, Tensor]]:
    """Yields (setting, reconstructions uint8 (B, 3, H, W)) of images uint8 (B, 3, H, W), clamped.

    kind: of `robustok.perturb`; one without a delta passes that of a setting over. A tokenizer that is perturbed by
    "itself" reconstructs under every setting of near codes. One that cannot be perturbed reconstructs under CLEAN only:
    UserError for another setting. unperturbed: as `perturbed_indices`.
    """
    how = how_perturbable(tokenizer)
    if kind != "neighbor":
        if how != "codes" or unperturbed is not None:
            raise UserError(f"the perturbation {kind!r} needs latents that are single codes, all compared in one way")
        yield from _perturbed_otherwise(tokenizer, images, settings, seed, sample_ids, neighbors, kind)
        return
    if how == "codes":
        found = perturbed_indices(tokenizer, images, settings, seed, sample_ids, neighbors, unperturbed)
        for setting, indices in found:
            yield setting, to_uint8(tokenizer.decode(codes_of(tokenizer, indices)))
        return
    if unperturbed is not None:
        raise UserError("unperturbed tokens can be compared in another way only where latents are single codes")
    for setting in settings:
        if how == "itself":
            alpha, delta = setting
            draw = {"alpha": alpha, "delta": delta, "seed": seed, "sample_ids": sample_ids, "neighbors": neighbors}
            restored = tokenizer.reconstruct(from_uint8(images), **draw)
        elif setting == CLEAN:
            restored = plainly_reconstructed(tokenizer, from_uint8(images))
        else:
            raise UserError("latent perturbation, and with it pFID, is not defined for this tokenizer")
        yield setting, to_uint8(restored)


def _perturbed_otherwise(
    tokenizer, images: Tensor, settings: Iterable[Setting], seed: int, sample_ids: Tensor, neighbors: str, kind: Kind
) -> Iterator[tuple[Setting, Tensor]]:
    """`perturbed_images` of the kinds beside the paper's: one encoding, and one gradient where the kind needs it."""
    originals = from_uint8(images)
    latents, codebook = tokenizer.encode(originals), tokenizer.codebook.float()
    given = {"seed": seed, "sample_ids": sample_ids, "similarity": similarity_of(tokenizer)}
    if kind == "adversarial":
        clean = codes_of(tokenizer, vq_nearest(latents, codebook, similarity=similarity_of(tokenizer)))
        given |= {"neighbors": neighbors, "gradient": decoding_gradient(tokenizer.decode, clean, originals)}
    for alpha, delta in settings:
        near = {"delta": delta} if uses(kind, "delta") else {}
        moved = perturb(latents, codebook, kind, alpha=alpha, **near, **given)
        yield (alpha, delta), to_uint8(tokenizer.decode(moved.z_q))


def decoder_latents(tokenizer, images: Tensor) -> Tensor:
    """Latents (B, L, D) of images in [-1, 1] as `decode` gets them, unperturbed: codes where a tokenizer has them."""
    if how_perturbable(tokenizer) == "codes":
        nearest = vq_nearest(tokenizer.encode(images), tokenizer.codebook.float(), similarity=similarity_of(tokenizer))
        return codes_of(tokenizer, nearest)
    return tokenizer.lookup(tokenizer.tokenize(images)) if is_discrete(tokenizer) else tokenizer.encode(images)


def plainly_reconstructed(tokenizer, images: Tensor) -> Tensor:
    """Images in [-1, 1] -> their reconstructions without perturbation or noise, clamped; for tokenizers of any kind."""
    return tokenizer.detokenize(tokenizer.tokenize(images)) if is_discrete(tokenizer) else tokenizer.reconstruct(images)


def perturbed_indices(
    tokenizer,
    images: Tensor,
    settings: Iterable[Setting],
    seed: int,
    sample_ids: Tensor,
    neighbors: str = "latent",
    unperturbed: Similarity | None = None,
) -> Iterator[tuple[Setting, Tensor]]:
    """Yields (setting, indices (B, L)) for images uint8 (B, 3, H, W): one encoding and one neighbour search for all.

    The indices are those of `vq_perturb` at each setting. All settings share their random numbers: the tokens that a
    smaller alpha perturbs are among those of a larger one, and all ranks lie in the sorted list of the largest delta.
    That also lowers the variance of differences between settings.
    unperturbed: how latents that are not perturbed find their code, if not as the tokenizer's do.
    Raises UserError for a tokenizer whose latents are not each one code of one codebook.
    """
    if how_perturbable(tokenizer) != "codes":
        raise UserError("this needs a tokenizer whose latents are each one code of one codebook, found another kind")
    settings = list(settings)
    latents = tokenizer.encode(from_uint8(images))
    L = latents.shape[1]
    deltas = sorted({delta for _, delta in settings})
    positions = torch.arange(L, device=latents.device)
    choice, word = perturbation_words(seed, sample_ids, positions)
    ranks = torch.stack([rank(word, delta) for delta in deltas], dim=-1)  # (B, L, deltas)
    step = max(1, NEIGHBOR_BYTES // (8 * L * deltas[-1]))  # images whose neighbours are held at once
    parts = zip(latents.split(step), ranks.split(step), strict=True)
    chosen = torch.cat([_neighbors_at(tokenizer, *part, neighbors, deltas[-1]) for part in parts])
    nearest = chosen[..., 0]
    if unperturbed is not None:
        nearest = vq_nearest(latents, tokenizer.codebook.float(), similarity=unperturbed)
    for alpha, delta in settings:
        perturbed = choice < threshold(alpha)
        yield (alpha, delta), torch.where(perturbed, chosen[..., 1 + deltas.index(delta)], nearest)


def _neighbors_at(tokenizer, latents: Tensor, ranks: Tensor, neighbors: str, delta: int) -> Tensor:
    """The nearest code of each latent (b, L, D), then its neighbours of the given ranks (b, L, R): (b, L, 1 + R)."""
    options, codebook = {"similarity": similarity_of(tokenizer)}, tokenizer.codebook.float()
    if neighbors == "latent":
        near = vq_neighbors(latents, codebook, delta, **options)
        nearest = near[..., :1]
    elif neighbors == "code":
        nearest = vq_neighbors(latents, codebook, 1, **options)
        near = vq_neighbors(codebook[nearest[..., 0]], codebook, delta, **options)
    else:
        raise ValueError(f'neighbors: found {neighbors!r}, expected "latent" or "code"')
    return torch.cat([nearest, torch.where(ranks == 0, nearest, near.gather(-1, ranks))], dim=-1)


def codes_of(tokenizer, indices: Tensor) -> Tensor:
    """Codes (..., D) of indices (...), as they go into `decode`."""
    return F.embedding(indices, normalize_rows(tokenizer.codebook, similarity_of(tokenizer) == "cosine"))
