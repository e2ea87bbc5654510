"""Awkward inputs and an oracle that shares no code with the operations: NumPy float64 brute force."""

import numpy as np
import torch

# (B, L, D, K, delta): empty, single, prime, not a multiple of any block, one code, all codes wanted
SHAPES = {
    "empty": (0, 4, 8, 16, 3),
    "one": (1, 1, 65, 1, 1),
    "all-codes": (3, 7, 1, 7, 7),
    "prime": (2, 11, 12, 1000, 50),
    "63x4097": (1, 63, 3, 4097, 5),
    "published": (1, 7, 64, 4096, 100),
    "wide": (1, 2, 257, 130, 10),
}
SMALL = {name: SHAPES[name] for name in ("one", "all-codes", "prime", "wide")}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def make(shape, dtype=torch.float32, seed=0, codebook_dtype=torch.float32):
    B, L, D, K, _ = shape
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(B, L, D, generator=generator).to(dtype)
    return z, torch.randn(K, D, generator=generator).to(codebook_dtype)


SIMILARITIES = ("cosine", "l2", "dot")


def compared(rows: torch.Tensor, similarity: str) -> np.ndarray:
    """float32 rows: for "cosine" divided in float64 by max(norm, 1e-12), rounded."""
    wide = rows.detach().double().numpy()
    if similarity == "cosine":
        with np.errstate(invalid="ignore"):
            wide = wide / np.maximum(np.sqrt((wide * wide).sum(-1, keepdims=True)), 1e-12)
    return wide.astype(np.float32)


def order(query: torch.Tensor, codebook: torch.Tensor, similarity: str = "cosine") -> np.ndarray:
    """All codes (N, K) of each row by (float64 distance, index); a distance that is not finite is infinite.

    For "dot" the distance is minus the inner product.
    """
    u, e = (compared(rows, similarity).astype(np.float64) for rows in (query.reshape(-1, query.shape[-1]), codebook))
    with np.errstate(invalid="ignore"):
        terms = (-(row * e) if similarity == "dot" else (row - e) ** 2 for row in u)
        distances = [term.cumsum(1)[:, -1] for term in terms]  # in the order of the coordinates
    distances = np.where(np.isfinite(distances), distances, np.inf).reshape(len(u), len(e))
    return np.argsort(distances, axis=1, kind="stable")
