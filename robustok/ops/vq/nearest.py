"""Nearest code and nearest neighbours, as operators."""

import torch
from torch import Tensor

from . import transforms
from .backends.registry import choose_for
from .checks import check_delta, check_rows, resolve_similarity
from .types import Similarity


def _as_images(rows: Tensor) -> Tensor:
    """Rows (..., D) as (B, L, D), without a copy wherever the strides allow it."""
    if rows.ndim <= 2:
        return rows.reshape(-1, 1, rows.shape[-1])
    return rows.flatten(1, -2)


def vq_nearest(
    z: Tensor, codebook: Tensor, *, normalize: bool = True, similarity: str | None = None, backend: str = "auto"
) -> Tensor:
    """Index of the code nearest to each latent: argmin over k of |u - e_k|^2, ties to the lowest index.

    Args:
        z: latents (..., D), float32, float16 or bfloat16, any strides.
        codebook: codes (K, D), K >= 1, of any of these dtypes.
        normalize: compare u = z / |z| and e = c / |c| (METHOD.md section 2); False: compare z and c as they are.
        similarity: "cosine" and "l2" say the same in a word, whatever `normalize` is; "dot": the nearest code is that
            of the largest inner product z.c of the rows as they are (IBQ, arXiv 2412.02692).
        backend: auto, reference, torch, cpp, triton or cuda; all return the same indices.

    Returns:
        int64 (...) in [0, K), without gradient. A latent with NaN has no nearest code and gets 0.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape, dtype, device or range; a backend that cannot run.

    Distances (for "dot" minus the product) are those of float32 rows in float64, whatever the autocast mode. Memory
    beyond the result: at most 64 MB.
    """
    check_rows("z", z, codebook)
    similarity = resolve_similarity(normalize, similarity)
    return _nearest(_as_images(z), codebook, similarity, backend).reshape(z.shape[:-1])


@torch.library.custom_op(
    "robustok::vq_nearest",
    mutates_args=(),
    schema="(Tensor z, Tensor codebook, str similarity, str backend) -> Tensor",
)
def _nearest(z: Tensor, codebook: Tensor, similarity: Similarity, backend: str) -> Tensor:
    return choose_for(backend, codebook, similarity).nearest(z, codebook, similarity)


@_nearest.register_fake
def _(z, codebook, similarity, backend):
    return z.new_empty(z.shape[:2], dtype=torch.int64)


def vq_neighbors(
    query: Tensor,
    codebook: Tensor,
    delta: int,
    *,
    normalize: bool = True,
    similarity: str | None = None,
    backend: str = "auto",
) -> Tensor:
    """Indices of the delta codes nearest to each query, by (distance, index): the set S_delta of the paper's eq. 4.

    Args:
        query: latents or codes (..., D), float32, float16 or bfloat16, any strides.
        codebook: codes (K, D), of any of these dtypes.
        delta: size of the set, 1 to K.
        normalize, similarity, backend: as `vq_nearest`.

    Returns:
        int64 (..., delta) in [0, K), without gradient.

    Raises:
        TypeError, ValueError: as `vq_nearest`, and delta outside 1 to K.
    """
    check_rows("query", query, codebook)
    delta = check_delta(delta, codebook)
    similarity = resolve_similarity(normalize, similarity)
    return _neighbors(_as_images(query), codebook, delta, similarity, backend).reshape(*query.shape[:-1], delta)


@torch.library.custom_op(
    "robustok::vq_neighbors",
    mutates_args=(),
    schema="(Tensor query, Tensor codebook, SymInt delta, str similarity, str backend) -> Tensor",
)
def _neighbors(query: Tensor, codebook: Tensor, delta: int, similarity: Similarity, backend: str) -> Tensor:
    return choose_for(backend, codebook, similarity).neighbors(query, codebook, delta, similarity)


@_neighbors.register_fake
def _(query, codebook, delta, similarity, backend):
    return query.new_empty(*query.shape[:2], delta, dtype=torch.int64)


transforms.register_loop(_nearest)
transforms.register_loop(_neighbors)
