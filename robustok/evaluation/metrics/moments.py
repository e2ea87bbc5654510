"""Count, mean and covariance of features, accumulated in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.files import written_whole
from ..npz import npz_array, npz_names


class FeatureStatistics:
    """Count, mean and covariance of feature vectors that arrive in batches; memory dim² doubles whatever their number.

    Two parts of a set are joined by the update of Chan, Golub and LeVeque (1983), which subtracts means before it
    squares: no cancellation, and any split of the same rows gives the same moments up to float64 rounding.

    `count` is None for statistics read from a file that does not say how many images it describes.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu"):
        self.dim = dim
        self.count: int | None = 0
        with torch.inference_mode(False):  # made inside of it, they could not be updated outside
            self._mean = torch.zeros(dim, dtype=torch.float64, device=device)
            self._scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)  # sum of (x - mean)(x - mean)^T
        self._root: Tensor | None = None

    @classmethod
    def from_moments(cls, mean: Tensor, covariance: Tensor, count: int | None) -> FeatureStatistics:
        """Statistics with a given mean (dim,) and unbiased covariance (dim, dim)."""
        statistics = cls(len(mean), mean.device)
        statistics.count = count
        statistics._mean = mean.double()
        statistics._scatter = covariance.double() * (1 if count is None else count - 1)
        return statistics

    def update(self, features: Tensor | np.ndarray) -> FeatureStatistics:
        """Adds rows: features (B, dim), any floating dtype, moved to the device of the statistics. Returns self.

        Raises ValueError for another shape. NaN and infinity are reported when the moments are read, so that no batch
        waits for the device.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features: found shape {tuple(features.shape)}, expected (B, {self.dim})")
        if len(features) == 0:
            return self
        rows = torch.as_tensor(features).detach().to(self._mean.device, torch.float64)
        mean = rows.mean(dim=0)
        self._accumulate(rows - mean)
        return self._join(len(rows), mean)

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """Adds the rows that `other` has seen (on another process, say). Returns self; `other` is unchanged."""
        if other.dim != self.dim:
            raise ValueError(f"other: found {other.dim} dimensions, expected {self.dim}")
        if self.count is None or other.count is None:
            raise ValueError("statistics without a count (read from a file that has none) cannot be merged")
        if other.count == 0:
            return self
        device = self._mean.device
        self._scatter += other._scatter.to(device)
        return self._join(other.count, other._mean.to(device))

    def merge_processes(self) -> FeatureStatistics:
        """Merges the rows of all processes of torch.distributed, in the order of their ranks: every one gets the same.

        Returns self; alone, or outside of a process group, nothing changes. All processes must call it.
        """
        if not torch.distributed.is_initialized():
            return self
        state = self.state()
        parts = [torch.empty_like(state) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, state)
        merged = FeatureStatistics(self.dim, self._mean.device)
        for part in parts:
            merged.merge(FeatureStatistics.from_state(part))
        self.count, self._mean, self._scatter, self._root = merged.count, merged._mean, merged._scatter, None
        return self

    def state(self) -> Tensor:
        """All of it as one vector ((dim + 1) (dim + 2) / 2,) float64, for `from_state`: count, mean, lower triangle of
        the scatter. Raises ValueError without a count.
        """
        if self.count is None:
            raise ValueError("statistics without a count (read from a file that has none) have no state")
        rows, columns = torch.tril_indices(self.dim, self.dim, device=self._mean.device)
        return torch.cat([self._mean.new_tensor([self.count]), self._mean, self._scatter[rows, columns]])

    @classmethod
    def from_state(cls, state: Tensor) -> FeatureStatistics:
        """The statistics whose `state` this is, to the bit, on its device."""
        dim = (math.isqrt(8 * len(state) + 1) - 3) // 2
        count, mean, scatter = state.split([1, dim, len(state) - 1 - dim])
        statistics = cls(dim, state.device)
        rows, columns = torch.tril_indices(dim, dim, device=state.device)
        statistics.count, statistics._mean = int(count), mean.clone()
        statistics._scatter[rows, columns] = scatter
        return statistics

    def _join(self, count: int, mean: Tensor) -> FeatureStatistics:
        """Takes in a part of `count` rows around `mean`, whose own scatter has been added already."""
        if self.count is None:
            raise ValueError("statistics without a count (read from a file that has none) cannot be updated")
        total = self.count + count
        shift = mean - self._mean
        self._accumulate(shift[None] * (self.count * count / total) ** 0.5)
        self._mean = self._mean + shift * (count / total)
        self.count, self._root = total, None
        return self

    def _accumulate(self, rows: Tensor) -> None:
        """Adds rows^T rows to the scatter, of which only the lower triangle is kept up to date."""
        if self._scatter.device.type == "cpu":
            from scipy.linalg.blas import dsyrk  # half the work of a product that does not know it is symmetric

            transposed = self._scatter.numpy().T  # BLAS counts columns first: its upper triangle is our lower one
            dsyrk(1.0, rows.contiguous().numpy().T, beta=1.0, c=transposed, overwrite_c=True)
        else:
            self._scatter.addmm_(rows.T, rows)

    @property
    def mean(self) -> Tensor:
        """(dim,) float64. Raises ValueError where there is no row, UserError where a feature was NaN or infinite."""
        if self.count == 0:
            raise ValueError("statistics of no images: update() was never called")
        if not torch.isfinite(self._mean).all():
            raise UserError("the features contain NaN or infinity: check the images and the weights of the network")
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """(dim, dim) float64, unbiased (divided by count - 1). Raises UserError for a single row, else as `mean`."""
        if self.count == 1:
            raise UserError("images: found 1, expected at least two: one has no covariance")
        self.mean.sum()  # refuses empty and non-finite statistics
        lower = self._scatter.tril()
        return (lower + lower.tril(-1).T) / (1 if self.count is None else self.count - 1)

    @property
    def max_rank(self) -> int:
        """Largest rank the covariance can have: n rows span at most n - 1 directions around their mean."""
        return self.dim if self.count is None else min(self.dim, self.count - 1)

    def root(self) -> Tensor:
        """H (dim, rank), lower triangular, with covariance = H H^T; kept until the next update.

        Cholesky's factor, or from eigenvectors where the covariance is singular (no more rows than dim, a constant
        feature) and Cholesky's method fails.
        """
        if self._root is None:
            factor, failed = torch.linalg.cholesky_ex(self.covariance)
            self._root = factor if self.max_rank == self.dim and not failed else self._singular_root()
        return self._root

    def _singular_root(self) -> Tensor:
        values, vectors = torch.linalg.eigh(self.covariance)
        noise = values[-1].clamp(min=0) * self.dim * torch.finfo(torch.float64).eps
        keep = torch.nonzero(values[-self.max_rank :] > noise).flatten() + (self.dim - self.max_rank)
        return torch.linalg.qr((vectors[:, keep] * values[keep].sqrt()).T, mode="r").R.T

    def save(self, path: str | Path) -> None:
        """Writes mu, sigma (the names other tools read) and count to an .npz file."""
        arrays = {"mu": self.mean.cpu().numpy(), "sigma": self.covariance.cpu().numpy()}
        if self.count is not None:
            arrays["count"] = np.int64(self.count)
        # given a file, as numpy would append .npz to a bare name
        with written_whole(Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path, *, spatial: bool = False) -> FeatureStatistics:
        """Reads `save`'s file, or ADM's .npz (mu, sigma; mu_s, sigma_s with `spatial`). Raises UserError."""
        names, there = ("mu_s", "sigma_s") if spatial else ("mu", "sigma"), npz_names(path)
        if missing := [name for name in names if name not in there]:
            raise UserError(f"{path}: no array {missing[0]!r} (found {there}); expected statistics {names}")
        mean, covariance = (npz_array(path, name) for name in names)
        if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
            raise UserError(f"{path}: {names[0]} {mean.shape} does not fit {names[1]} {covariance.shape}")
        for name, array in zip(names, (mean, covariance), strict=True):
            if array.dtype.kind != "f" or not np.isfinite(array).all():
                raise UserError(
                    f"{path}: {name} ({array.dtype}) holds something else than finite floating-point numbers"
                )
        mean, covariance = torch.from_numpy(mean).double(), torch.from_numpy(covariance).double()
        return cls.from_moments(mean, covariance, _count(path) if "count" in there else None)


def _count(path: str | Path) -> int:
    """How many images the statistics in an .npz file are of."""
    count = npz_array(path, "count")
    if count.ndim or count.dtype.kind not in "iu" or not 2 <= count < 2**53:
        raise UserError(f"{path}: count is {count!r:.60}; expected the number of images, a whole number from 2")
    return int(count)
