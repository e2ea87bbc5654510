"""Distances of distributions by kernels: maximum mean discrepancy, and KID over random subsets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..statistics import ImageStatistics

Kernel = Callable[[Tensor, Tensor], Tensor]  # float64 (n, F), (m, F) -> (n, m)

TILE = 2048  # rows of a tile of kernel values
KID_ROWS = 1000  # rows of a subset, as published


def polynomial(x: Tensor, y: Tensor, degree: int = 3, gamma: float | None = None, coef0: float = 1.0) -> Tensor:
    """(gamma x.y + coef0)^degree, gamma None: 1 / F. The kernel of KID."""
    scale = 1.0 / x.shape[1] if gamma is None else gamma
    return (x @ y.T * scale + coef0) ** degree


def gaussian(x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """exp(-|x - y|² / (2 sigma²))."""
    return torch.exp(-torch.cdist(x, y).square() / (2 * sigma**2))


def kid_figures(samples: ImageStatistics, reference: ImageStatistics) -> dict[str, float] | None:
    """KID on subsets of 1000 rows, or of all where a side has fewer; None where a side kept no features."""
    real = reference.thinned_features()
    if samples.features is None or real is None:
        return None
    size = min(KID_ROWS, len(real), len(samples.features))
    mean, spread = kernel_distance(samples.features, real.to(samples.features.device), subset_size=size)
    return {"kid": mean, "kid_std": spread}


def kernel_distance(
    a: Tensor, b: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 2020, *, kernel: Kernel = polynomial
) -> tuple[float, float]:
    """KID of two sets of features (N, F), generated first: mean and spread (population) over random subsets.

    Bińkowski et al. 2018: the unbiased squared MMD, in float64. Rows are drawn with numpy's RandomState(seed), of `a`
    first, without replacement, as torch-fidelity does: equal seeds give equal subsets. Raises ValueError where a set
    has fewer than `subset_size` rows.
    """
    check_pair(a, b)
    if min(len(a), len(b)) < subset_size:
        raise ValueError(f"kernel_distance: subset_size {subset_size} exceeds the sets ({len(a)} and {len(b)} rows)")
    generator, values = legacy_generator(seed), []
    for _ in range(subsets):
        x, y = (s[torch.from_numpy(generator.choice(len(s), subset_size, replace=False)).to(s.device)] for s in (a, b))
        values.append(mmd(x, y, kernel=kernel, unbiased=True))
    return float(np.mean(values)), float(np.std(values))


def mmd(
    x: Tensor, y: Tensor, *, sigma: float | None = None, kernel: Kernel | None = None, unbiased: bool = False
) -> float:
    """Squared maximum mean discrepancy (Gretton et al. 2012) of rows x (N, F) and y (M, F), in float64.

    Args:
        sigma: width of the Gaussian kernel; None: the median distance between rows of x and y. Give one width to
            figures that are compared.
        kernel: another kernel instead of the Gaussian one.
        unbiased: leave out each row's product with itself; the result can then be negative. Otherwise it is at least
            zero, and zero for equal sets.
    """
    check_pair(x, y)
    if kernel is None:
        kernel = partial(gaussian, sigma=median_distance(x, y) if sigma is None else sigma)
    x, y = x.double(), y.double()
    within = 0.0
    for rows in (x, y):
        n = len(rows)
        within += _kernel_sum(kernel, rows, rows, unbiased) / (n * (n - 1) if unbiased else n**2)
    return float(within - 2 * _kernel_sum(kernel, x, y) / (len(x) * len(y)))


def median_distance(x: Tensor, y: Tensor, rows: int = 1000) -> float:
    """Median distance between (the first `rows`) rows of x and of y: the usual width of a Gaussian kernel."""
    return float(torch.cdist(x[:rows].double(), y[:rows].double()).median())


def _kernel_sum(kernel: Kernel, x: Tensor, y: Tensor, others: bool = False) -> Tensor:
    """Sum over all pairs, tile by tile: no N x M matrix is stored. others: of one set, no row with itself."""
    sums = []
    for i, rows in enumerate(x.split(TILE)):
        for j, columns in enumerate(y.split(TILE)):
            values = kernel(rows, columns)
            own = values.diagonal().sum() if others and i == j else 0
            sums.append(values.sum() - own)
    return torch.stack(sums).sum()


def legacy_generator(seed: int) -> np.random.RandomState:
    """The generator of torch-fidelity, so that the same seed draws the same rows and figures can be compared."""
    return np.random.RandomState(seed)


def check_pair(a: Tensor, b: Tensor) -> None:
    """Raises ValueError unless a is (N, F) and b (M, F)."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"expected features (N, F) and (M, F), found {tuple(a.shape)} and {tuple(b.shape)}")
