"""What explains pFID: how a codebook is used and laid out, and what the decoder makes of perturbed latents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.random import narrow_seed
from ..data.transforms import from_uint8
from ..ops.indices import count_indices
from ..ops.vq import normalize_rows
from .metrics.kernel import median_distance, mmd
from .perturbing import CLEAN, Setting, codes_of, device_of, perturbed_images, perturbed_indices, similarity_of

ROWS = 4096  # latent vectors a side of one MMD


class Usage(NamedTuple):
    """How often each code is the nearest one."""

    counts: Tensor  # (K,) int64, on the CPU
    used: float  # share of codes that occur
    perplexity: float  # exp(entropy): as many equally used codes would be as uncertain; at most K
    top: float  # share of tokens that have the most frequent code


@torch.inference_mode()
def codebook_usage(tokenizer, batches: Iterable[Tensor]) -> Usage:
    """Usage over all tokens of uint8 batches (B, 3, H, W). Means over small batches would underestimate it."""
    batches = (batch.to(device_of(tokenizer), non_blocking=True) for batch in batches)
    return usage_of(sum(code_counts(tokenizer, tokenizer.tokenize(from_uint8(batch))) for batch in batches))


def code_counts(tokenizer, tokens: Tensor) -> Tensor:
    """How often each code is in tokens (B, L), or (B, L, Q) of Q codebooks: (K,) or (Q * K,) int64."""
    *several, K, _ = tokenizer.codebook.shape
    if several:
        tokens = tokens + K * torch.arange(several[0], device=tokens.device)
    return count_indices(tokens, tokenizer.codebook[..., 0].numel())


def usage_of(counts: Tensor) -> Usage:
    """`Usage` of counts (K,), on any device. Raises ValueError where there is no token."""
    counts = counts.cpu()
    total = int(counts.sum())
    if total == 0:
        raise ValueError("codebook usage of no tokens")
    p = counts.double() / total
    perplexity = torch.exp(-torch.special.xlogy(p, p).sum())
    return Usage(counts, float((counts > 0).double().mean()), float(perplexity), float(p.max()))


@torch.inference_mode()
def codebook_map(tokenizer, *, perplexity: float = 30.0, seed: int = 0) -> Tensor:
    """t-SNE of the codes as they are compared (K, D) -> (K, 2) float32 (paper, figures 7 and 13)."""
    from sklearn.manifold import TSNE

    codes = normalize_rows(tokenizer.codebook, similarity_of(tokenizer) == "cosine").flatten(0, -2)
    perplexity = min(perplexity, (len(codes) - 1) / 3)  # t-SNE takes no larger one for so few codes
    tsne = TSNE(perplexity=perplexity, random_state=narrow_seed(seed))
    return torch.from_numpy(tsne.fit_transform(codes.float().cpu().numpy()))


def elbow(features: Tensor, clusters: Sequence[int], seed: int = 0) -> dict[int, float]:
    """Mean squared distance of features (N, F) to their k-means centre, for each number of clusters (paper, table 6).

    Where the curve bends, more codes stop to pay. Raises UserError for more clusters than rows.
    """
    from sklearn.cluster import MiniBatchKMeans

    if max(clusters) > len(features):
        raise UserError(f"elbow: {max(clusters)} clusters of {len(features)} rows; expected no more clusters than rows")
    rows, spread = features.float().cpu().numpy(), {}
    for k in clusters:
        means = MiniBatchKMeans(k, n_init=3, batch_size=max(1024, 2 * k), random_state=narrow_seed(seed)).fit(rows)
        spread[k] = float(means.inertia_ / len(rows))
    return spread


@torch.inference_mode()
def perturbed_reconstructions(
    tokenizer, images: Tensor, settings: Sequence[Setting], seed: int = 0, neighbors: str = "latent"
) -> dict[Setting, Tensor]:
    """uint8 images (B, 3, H, W) -> uint8 reconstructions under each (alpha, delta) (paper, figure 3)."""
    images = images.to(device_of(tokenizer))
    ids = torch.arange(len(images), device=images.device)
    return dict(perturbed_images(tokenizer, images, settings, seed, ids, neighbors))


class Lipschitz(NamedTuple):
    """Pixels moved by the decoder for each unit that the latent moves, over images."""

    mean: float
    maximum: float  # a lower bound of the decoder's Lipschitz constant on its own codes
    ratios: Tensor  # (n,) float64


@torch.inference_mode()
def lipschitz(tokenizer, batches: Iterable[Tensor], setting: Setting, seed: int = 0) -> Lipschitz:
    """|decode(z') - decode(z)| / |z' - z| for the codes z of each image and their perturbation z' (Euclidean norms).

    Section 3 of the paper: a decoder that tolerates wrong tokens has a small constant. Batches are uint8
    (B, 3, H, W), pixels are measured in [-1, 1]. Images in which the perturbation changed nothing are left out;
    raises UserError where none is left.
    """
    ratios, moved_by, done = [], [], 0  # the first two stay on the device, which nothing waits for
    for batch in batches:
        batch = batch.to(device_of(tokenizer), non_blocking=True)
        ids = torch.arange(done, done + len(batch), device=batch.device)
        both = dict(perturbed_indices(tokenizer, batch, [CLEAN, setting], seed, ids))
        clean, moved = (codes_of(tokenizer, both[s]) for s in (CLEAN, setting))
        latent = (moved - clean).double().flatten(1).norm(dim=1)
        pixels = (tokenizer.decode(moved) - tokenizer.decode(clean)).double().flatten(1).norm(dim=1)
        ratios.append(pixels / latent)
        moved_by.append(latent)
        done += len(batch)
    ratios = torch.cat(ratios)[torch.cat(moved_by) > 0].cpu()
    if len(ratios) == 0:
        raise UserError(f"the perturbation {setting} changed no token; take a larger alpha or delta")
    return Lipschitz(float(ratios.mean()), float(ratios.max()), ratios)


@torch.inference_mode()
def latent_discrepancy(
    tokenizer, batches: Iterable[Tensor], generated: Tensor, settings: Sequence[Setting], seed: int = 0
) -> dict[Setting, float]:
    """Squared MMD between the codes of generated tokens and of perturbed real ones (paper, figure 6).

    Args:
        batches: real images, uint8 (B, 3, H, W); their tokens are perturbed under each (alpha, delta).
        generated: int64 (M, L) tokens of a generator.

    Code vectors of all positions are one set; up to 4096 of each side, evenly spaced, and one width of the Gaussian
    kernel for all settings. Where the value is lowest, perturbed latents resemble the generator's best.
    """
    device, done = device_of(tokenizer), 0
    perturbed: dict[Setting, list[Tensor]] = {setting: [] for setting in settings}
    for batch in batches:
        ids = torch.arange(done, done + len(batch), device=device)
        for setting, indices in perturbed_indices(tokenizer, batch.to(device), settings, seed, ids):
            perturbed[setting].append(indices)
        done += len(batch)
    target = _rows(tokenizer, generated.to(device))
    sigma = median_distance(target, target)
    return {s: mmd(target, _rows(tokenizer, torch.cat(indices)), sigma=sigma) for s, indices in perturbed.items()}


def _rows(tokenizer, indices: Tensor) -> Tensor:
    """Tokens (N, L) -> the codes (n, D) of at most 4096 of them, evenly spaced."""
    flat = indices.flatten()
    kept = min(ROWS, len(flat))
    return codes_of(tokenizer, flat[torch.arange(kept, device=flat.device) * len(flat) // kept])
