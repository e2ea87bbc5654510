"""The definition of every operation, in plain PyTorch, written to be read. The other backends return the same indices.

Latents z are (B, L, D), the codebook is (K, D), of float32, float16 or bfloat16. Both are turned into float32 rows
first (`normalize_rows`). The distance of two such rows is their squared distance in float64, or for the similarity
"dot" minus their inner product, summed in the order of the coordinates so that it has one value to the last bit. Codes
are ordered by (distance, index).
"""

import torch
from torch import Tensor

from .draws import draw_ranks
from .types import Draw, Perturbed, Quantized, Similarity

MIN_NORM = 1e-12
_BLOCK_BYTES = 16 << 20  # size of one block of float64 distances


def norms(rows: Tensor) -> Tensor:
    """Lengths (..., 1) of float64 rows (..., D), at least MIN_NORM; the squares are summed in order, as cumsum does.

    The clamp comes before the root, whose derivative at a zero row would be infinite.
    """
    return rows.square().cumsum(-1)[..., -1:].clamp_min(MIN_NORM**2).sqrt()


def normalize_rows(rows: Tensor, normalize: bool) -> Tensor:
    """The float32 rows (..., D) whose distances count: rows / |rows| in float64, rounded, or the rows as they are.

    Differentiable in rows.
    """
    if not normalize:
        return rows.float()
    rows = rows.double()
    return (rows / norms(rows)).float()


def compared_rows(rows: Tensor, similarity: Similarity) -> Tensor:
    """The float32 rows (..., D) that a similarity compares: of unit length for "cosine"."""
    return normalize_rows(rows, similarity == "cosine")


def distances(query: Tensor, codes: Tensor, similarity: Similarity) -> Tensor:
    """Float64 distances (N, K) of float32 rows (N, D) and (K, D). A distance that is not finite counts as infinite."""
    query, codes = query.double(), codes.double()
    total = query.new_zeros(len(query), len(codes))
    for d in range(query.shape[1]):
        u, e = query[:, None, d], codes[None, :, d]
        total += -u * e if similarity == "dot" else (u - e).square()
    return torch.where(total.isfinite(), total, torch.inf)


def ordered_codes(query: Tensor, codes: Tensor, similarity: Similarity) -> Tensor:
    """All codes (N, K) int64 by (distance, index), for float32 rows (N, D) and (K, D)."""
    rows = max(1, _BLOCK_BYTES // (8 * len(codes)))
    blocks = [distances(block, codes, similarity).argsort(dim=1, stable=True) for block in query.split(rows)]
    return torch.cat(blocks)


def nearest(z: Tensor, codebook: Tensor, similarity: Similarity) -> Tensor:
    """Index (B, L) int64 of the nearest code."""
    return neighbors(z, codebook, 1, similarity)[..., 0].contiguous()


def neighbors(query: Tensor, codebook: Tensor, delta: int, similarity: Similarity) -> Tensor:
    """Indices (B, L, delta) int64 of the delta nearest codes, nearest first."""
    codes = compared_rows(codebook, similarity)
    order = ordered_codes(compared_rows(query, similarity).flatten(0, 1), codes, similarity)[:, :delta]
    return order.reshape(*query.shape[:2], delta).contiguous()


def select(z: Tensor, codebook: Tensor, draw: Draw, neighbors: str, similarity: Similarity) -> tuple[Tensor, Tensor]:
    """Nearest codes and codes after perturbation, each (B, L) int64.

    neighbors "latent": the replacement is drawn from the codes nearest to z, as in the released code; "code": from
    those nearest to the code of z (eq. 4). Rank 0 is the code of z itself, which with "dot" need not be the one of the
    largest product with itself.
    """
    clean = nearest(z, codebook, similarity)
    indices = clean.clone()
    query = z if neighbors == "latent" else codebook[clean]
    tokens = torch.arange(z.shape[1], device=z.device)
    ranks = draw_ranks(draw, draw.sample_ids[: draw.num_images], tokens)
    codes = compared_rows(codebook, similarity)
    for image, rank in enumerate(ranks):
        order = ordered_codes(compared_rows(query[image], similarity), codes, similarity)
        indices[image] = torch.where(rank == 0, clean[image], order.gather(1, rank[:, None])[:, 0])
    return clean, indices


def straight_through(z: Tensor, codebook: Tensor, indices: Tensor, similarity: Similarity) -> Tensor:
    """u + stop(e - u) for the normalised rows, in the dtype of z: values of the code e, gradient of z's row u."""
    u, e = compared_rows(z, similarity), compared_rows(codebook, similarity)[indices]
    return (u + (e - u).detach()).to(z.dtype).contiguous()


def perturb(z: Tensor, codebook: Tensor, draw: Draw, neighbors: str, similarity: Similarity) -> Perturbed:
    """z (B, L, D) with some tokens replaced by a near code, differentiable in z."""
    return perturbed_of(z, codebook, *select(z, codebook, draw, neighbors, similarity), similarity)


def perturbed_of(z: Tensor, codebook: Tensor, clean: Tensor, indices: Tensor, similarity: Similarity) -> Perturbed:
    """The result for tokens `clean` and, after perturbation, `indices`, each (B, L)."""
    return Perturbed(straight_through(z, codebook, indices, similarity), indices, clean)


def quantize(z: Tensor, codebook: Tensor, draw: Draw, neighbors: str, similarity: Similarity) -> Quantized:
    """Everything the training step needs: vq = mean (e - stop u)^2, commit = mean (stop e - u)^2 on clean latents."""
    clean, indices = select(z, codebook, draw, neighbors, similarity)
    usage = clean.flatten().bincount(minlength=len(codebook))
    return quantized_of(z, codebook, clean, indices, usage, similarity)


def quantized_of(
    z: Tensor, codebook: Tensor, clean: Tensor, indices: Tensor, usage: Tensor, similarity: Similarity
) -> Quantized:
    """The result for tokens `clean` and, after perturbation, `indices`, each (B, L), and counts (K,) of `clean`."""
    u, e = compared_rows(z, similarity), compared_rows(codebook, similarity)[clean]
    count = max(1, u.numel())  # an empty batch has no loss
    return Quantized(
        z_q=straight_through(z, codebook, indices, similarity),
        indices=indices,
        nearest=clean,
        z_q_clean=straight_through(z, codebook, clean, similarity),
        vq_loss=((e - u.detach()).double().square().sum() / count).float(),
        commit_loss=((e.detach() - u).double().square().sum() / count).float(),
        usage=usage,
    )
