"""Latent shards: the latents of images as float32, and their mean and standard deviation for each channel.

data/rows.py says what a folder of shards is. A shard's latents.npy is (n, L, D), its moments.npy holds the sums that
the statistics come from; the manifest has them for all rows: `mean` and `std`, a number a channel.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.errors import RunError, UserError
from .rows import WRITE_AGAIN, Rows, RowSet, RowWriter, map_array, read_manifest
from .tokens import TokenSet

BLOCK = 256  # images whose sums are taken at once, so that float64 copies stay small


class LatentMoments(NamedTuple):
    """Sums over latents from which mean and standard deviation follow; float64, those of parts can be merged."""

    count: int  # vectors: images times L
    mean: np.ndarray  # (D,)
    deviations: np.ndarray  # (D,) sum of squared differences from the mean

    @staticmethod
    def of(latents: np.ndarray) -> LatentMoments:
        """Of latents (n, L, D), n > 0, summed in blocks of fixed size: the result depends on the rows alone."""
        return LatentMoments.merged(_block_moments(latents[i : i + BLOCK]) for i in range(0, len(latents), BLOCK))

    @staticmethod
    def merged(parts: Iterable[LatentMoments]) -> LatentMoments:
        """Of all parts together, merged in the order given (Chan, Golub and LeVeque 1983)."""
        return reduce(_merge, parts)

    @property
    def std(self) -> np.ndarray:
        """(D,) over all vectors; 1 for a channel that never changes, so that one can divide by it."""
        std = np.sqrt(self.deviations / self.count)
        return np.where(std > 0, std, 1.0)


def _block_moments(latents: np.ndarray) -> LatentMoments:
    vectors = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
    mean = vectors.mean(0)
    return LatentMoments(len(vectors), mean, ((vectors - mean) ** 2).sum(0))


def _merge(a: LatentMoments, b: LatentMoments) -> LatentMoments:
    count, difference = a.count + b.count, b.mean - a.mean
    mean = a.mean + difference * (b.count / count)
    return LatentMoments(count, mean, a.deviations + b.deviations + difference**2 * (a.count * b.count / count))


class LatentSet(RowSet):
    """What `open_latents` returns. `.latents` Rows (N, L, D) float32; `.mean`, `.std` float64 tensors (D,) over all
    rows and positions; and what every RowSet has.
    """

    kind, array, dtype, mark = "latent shards", "latents", np.float32, "latent_shape"

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        shape = self.manifest[self.mark]
        if shape != list(self.rows.shape[1:]) or len(shape) != 2:
            raise UserError(f"{folder}: latents {self.rows.shape}, but latent_shape {shape!r:.60}; write it again")
        for name in ("mean", "std"):
            values = self.manifest.get(name)
            numbers = isinstance(values, list) and all(isinstance(v, int | float) and abs(v) < 1e30 for v in values)
            if not numbers or len(values) != shape[1] or (name == "std" and min(values) <= 0):
                raise UserError(f"{folder}: {name} is {values!r:.60}, expected {shape[1]} numbers; write it again")

    @property
    def latents(self) -> Rows:
        return self.rows

    @property
    def mean(self) -> Tensor:
        return torch.tensor(self.manifest["mean"], dtype=torch.float64)

    @property
    def std(self) -> Tensor:
        return torch.tensor(self.manifest["std"], dtype=torch.float64)

    def read(self, rows: Tensor) -> Tensor:
        """Latents float32 (n, L, D) of the rows `rows`, on the tokenizer's own scale. Raises UserError for NaN."""
        latents = torch.from_numpy(self.rows[rows.cpu().numpy()])
        if not latents.isfinite().all():
            raise UserError(f"{self.folder}: latents hold NaN or infinity; write it again")
        return latents

    def statistics(self) -> dict[str, Any]:
        """Mean and standard deviation a channel, with what they were taken over; plain values, fit for JSON."""
        names = ("mean", "std", "count", "latent_shape", "tokenizer")
        return {name: self.manifest[name] for name in names}


class LatentWriter(RowWriter):
    """A RowWriter whose `about` has `latent_shape` (L, D) too. `write` takes finite floats (n, L, D), n > 0.

    Statistics are summed when a shard is written and merged in the order of the shards when the folder is finished:
    they do not depend on which process wrote what, when, nor on its batch size.
    """

    result = LatentSet

    def arrays(self, rows: Tensor) -> dict[str, np.ndarray]:
        shape = tuple(self.about["latent_shape"])
        if rows.shape[1:] != shape:
            raise ValueError(f"latents: found {tuple(rows.shape)}, expected (n, {shape[0]}, {shape[1]})")
        if not rows.isfinite().all():
            raise RunError(f"{self.folder}: latents are not finite; check the weights of the model that made them")
        latents = rows.float().cpu().numpy()
        moments = LatentMoments.of(latents)
        return {"latents": latents, "moments": np.stack([moments.mean, moments.deviations])}

    def summary(self, shards: list[str]) -> dict[str, Any]:
        moments = LatentMoments.merged(self._moments(self.folder / shard) for shard in shards)
        return {"mean": moments.mean.tolist(), "std": moments.std.tolist()}

    def _moments(self, shard: Path) -> LatentMoments:
        images, moments = (map_array(shard / f"{name}.npy") for name in ("ids", "moments"))
        if moments.shape != (2, self.about["latent_shape"][1]) or moments.dtype != np.float64:
            raise UserError(f"{shard / 'moments.npy'}: {moments.dtype} {moments.shape}; {WRITE_AGAIN}")
        return LatentMoments(len(images) * self.about["latent_shape"][0], *moments)


def write_latents(folder: str | Path, latents: Tensor, labels: Tensor, ids: Tensor, about: dict[str, Any]) -> LatentSet:
    """Writes latents that are in memory as a finished folder; arguments as for `LatentWriter` and its `write`."""
    return LatentWriter(folder, about).write_all(latents, labels, ids)


def open_latents(folder: str | Path) -> LatentSet:
    """The finished latent shards in `folder`; raises UserError for anything else, saying what is wrong with it."""
    return LatentSet(folder)


def open_rows(folder: str | Path) -> TokenSet | LatentSet:
    """The finished shards in `folder`, of tokens or of latents. Raises UserError for anything else."""
    manifest = read_manifest(folder, "token or latent shards")
    for kind in (TokenSet, LatentSet):
        if kind.mark in manifest:
            return kind(folder)
    raise UserError(f"{folder}: manifest.json has neither codebook_size (tokens) nor latent_shape (latents)")
