"""The definition of every operation, in plain PyTorch, written to be read. The other backends return the same indices.

Latents z are (B, L, D), the codebook is (K, D), of float32, float16 or bfloat16. What is compared are float32 rows
(`compared`); their distance is the float64 squared distance, summed in the order of the coordinates so that it has one
value to the last bit; codes are ordered by (distance, index).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.random import PERTURB, keyed_words

MIN_NORM = 1e-12
_BLOCK_BYTES = 16 << 20  # of one float64 block of distances


class Draw(NamedTuple):
    """What decides which tokens are perturbed and how far: METHOD.md section 3."""

    alpha: Tensor  # 0-d float64 in [0, 1]: probability that a token of a perturbed image is perturbed
    delta: Tensor  # 0-d int64 in [1, K]: size of the neighbour set
    seed: Tensor  # 0-d int64
    sample_ids: Tensor  # (B,) int64: who each image is
    num_images: int  # the first of the batch, which are perturbed


class Perturbed(NamedTuple):
    """Result of `vq_perturb`."""

    z_q: Tensor  # (B, L, D) dtype of z
    indices: Tensor  # (B, L) int64, after perturbation
    nearest: Tensor  # (B, L) int64, before


class Quantized(NamedTuple):
    """Result of `vq_quantize`: that of `vq_perturb`, the clean latents, the two losses and the usage of the codes."""

    z_q: Tensor  # (B, L, D) dtype of z
    indices: Tensor  # (B, L) int64, after perturbation
    nearest: Tensor  # (B, L) int64, before
    z_q_clean: Tensor  # (B, L, D) dtype of z
    vq_loss: Tensor  # 0-d float32, unweighted mean
    commit_loss: Tensor  # 0-d float32, unweighted mean
    usage: Tensor  # (K,) int64, counts of nearest


def norms(rows: Tensor) -> Tensor:
    """Lengths (..., 1) of float64 rows (..., D), at least MIN_NORM; the squares are summed in order, as cumsum does.

    Clamped below the root, whose derivative at a zero row would be infinite.
    """
    return rows.square().cumsum(-1)[..., -1:].clamp_min(MIN_NORM**2).sqrt()


def compared(rows: Tensor, normalize: bool) -> Tensor:
    """The float32 rows that are compared: rows / |rows| in float64, rounded, or the rows as they are."""
    if not normalize:
        return rows.float()
    rows = rows.double()
    return (rows / norms(rows)).float()


def squared_distances(query: Tensor, codes: Tensor) -> Tensor:
    """Float64 distances (N, K) of float32 rows (N, D) and (K, D). A distance that is not finite counts as infinite."""
    query, codes = query.double(), codes.double()
    distances = query.new_zeros(len(query), len(codes))
    for d in range(query.shape[1]):
        distances += (query[:, None, d] - codes[None, :, d]).square()
    return distances.nan_to_num(nan=torch.inf, posinf=torch.inf)


def ordered_codes(query: Tensor, codes: Tensor) -> Tensor:
    """All codes (N, K) int64 by (distance, index), for float32 rows (N, D) and (K, D)."""
    rows = max(1, _BLOCK_BYTES // (8 * len(codes)))
    blocks = [squared_distances(block, codes).argsort(dim=1, stable=True) for block in query.split(rows)]
    return torch.cat(blocks)


def nearest(z: Tensor, codebook: Tensor, normalize: bool) -> Tensor:
    """Index (B, L) int64 of the nearest code."""
    return neighbors(z, codebook, 1, normalize)[..., 0].contiguous()


def neighbors(query: Tensor, codebook: Tensor, delta: int, normalize: bool) -> Tensor:
    """Indices (B, L, delta) int64 of the delta nearest codes, nearest first."""
    codes = compared(codebook, normalize)
    order = ordered_codes(compared(query, normalize).flatten(0, 1), codes)[:, :delta]
    return order.reshape(*query.shape[:2], delta).contiguous()


def draw_ranks(draw: Draw, sample_ids: Tensor, tokens: Tensor) -> Tensor:
    """Rank in [0, delta) of the code that replaces each token, int64 (images, tokens); 0 where nothing changes.

    Words w0, w1 belong to (seed, sample id, token): perturbed where w0 < alpha * 2**32, rank = w1 * delta / 2**32.
    One pair of words serves every setting, so the perturbed tokens of a smaller alpha are among those of a larger one.
    """
    w0, w1, _, _ = keyed_words(draw.seed, PERTURB, sample_ids[:, None], tokens)
    threshold = (draw.alpha * 2.0**32).floor().long()
    return torch.where(w0 < threshold, (w1 * draw.delta) >> 32, 0)


def select(z: Tensor, codebook: Tensor, draw: Draw, around: str, normalize: bool) -> tuple[Tensor, Tensor]:
    """Nearest codes and codes after perturbation, each (B, L) int64.

    around "latent": the neighbour set is that of z (the released code); "code": that of its nearest code (eq. 4).
    """
    clean = nearest(z, codebook, normalize)
    indices = clean.clone()
    query = z if around == "latent" else codebook[clean]
    tokens = torch.arange(z.shape[1], device=z.device)
    ranks = draw_ranks(draw, draw.sample_ids[: draw.num_images], tokens)
    codes = compared(codebook, normalize)
    for image, rank in enumerate(ranks):
        order = ordered_codes(compared(query[image], normalize), codes)
        indices[image] = order.gather(1, rank[:, None])[:, 0]
    return clean, indices


def straight_through(z: Tensor, codebook: Tensor, indices: Tensor, normalize: bool) -> Tensor:
    """u + stop(e - u) for the rows compared, in the dtype of z: values of the code e, gradient of z's row u."""
    u, e = compared(z, normalize), compared(codebook, normalize)[indices]
    return (u + (e - u).detach()).to(z.dtype).contiguous()


def perturb(z: Tensor, codebook: Tensor, draw: Draw, around: str, normalize: bool) -> Perturbed:
    """z (B, L, D) with some tokens replaced by a near code, differentiable in z."""
    clean, indices = select(z, codebook, draw, around, normalize)
    return Perturbed(straight_through(z, codebook, indices, normalize), indices, clean)


def quantize(z: Tensor, codebook: Tensor, draw: Draw, around: str, normalize: bool) -> Quantized:
    """Everything the training step needs: vq = mean (e - stop u)^2, commit = mean (stop e - u)^2 on clean latents."""
    clean, indices = select(z, codebook, draw, around, normalize)
    u, e = compared(z, normalize), compared(codebook, normalize)[clean]
    count = max(1, u.numel())  # an empty batch has no loss
    return Quantized(
        z_q=straight_through(z, codebook, indices, normalize),
        indices=indices,
        nearest=clean,
        z_q_clean=straight_through(z, codebook, clean, normalize),
        vq_loss=((e - u.detach()).double().square().sum() / count).float(),
        commit_loss=((e.detach() - u).double().square().sum() / count).float(),
        usage=clean.flatten().bincount(minlength=len(codebook)),
    )
