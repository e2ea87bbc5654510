"""The Fréchet distance between two sets of features: FID, sFID, and FD of other networks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..features.measuring import distance_name
from ..statistics import ImageStatistics
from .moments import FeatureStatistics


def fid_figures(samples: ImageStatistics, reference: ImageStatistics) -> dict[str, float]:
    """FID; the same distance of another network's features is called "fd"."""
    return {distance_name(samples.protocol).lower(): frechet_distance(samples.pool, reference.pool)}


def sfid_figures(samples: ImageStatistics, reference: ImageStatistics) -> dict[str, float] | None:
    """The distance of Inception's spatial features (Nash et al. 2021); None where a side has none."""
    if samples.spatial is None or reference.spatial is None:
        return None
    return {"sfid": frechet_distance(samples.spatial, reference.spatial)}


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Fréchet distance |m_a - m_b|² + tr(A + B - 2 (A B)^½) of two Gaussians (Heusel et al. 2017, eq. 6).

    With B = H H^T the trace of the root is the sum of sqrt(eigenvalues of H^T A H), which is symmetric: no matrix
    square root, and H is computed once for all sets that are compared with the same `b` (the reference).
    """
    if a.dim != b.dim:
        raise ValueError(f"a has {a.dim} feature dimensions and b has {b.dim}: they come from different features")
    shift = a.mean - b.mean.to(a.mean.device)
    covariance, root = a.covariance, b.root().to(a.mean.device)
    eigenvalues = torch.linalg.eigvalsh(_congruence(root, covariance)) if root.shape[1] else root.new_zeros(0)
    # Beyond the smaller rank an eigenvalue is zero but for rounding, and its square root would be 1e-8, not 1e-16.
    eigenvalues = eigenvalues[max(0, len(eigenvalues) - a.max_rank) :].clamp(min=0)
    traces = covariance.trace() + root.square().sum()  # tr(H H^T)
    return float(shift @ shift + traces - 2 * eigenvalues.sqrt().sum())


def _congruence(root: Tensor, covariance: Tensor) -> Tensor:
    """H^T A H, of which only the lower triangle counts."""
    if root.device.type == "cpu" and root.shape[0] == root.shape[1]:
        from scipy.linalg.lapack import dsygst  # a quarter of the work of two products, as H is triangular

        return torch.from_numpy(dsygst(covariance.numpy(), root.numpy(), itype=2, lower=1)[0])
    return root.T @ covariance @ root
