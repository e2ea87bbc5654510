"""Features of generated images on disk, shard by shard, and the statistics of all of them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from ..core.files import written_whole
from ..core.sizes import Size, sides
from ..data.rows import Rows
from ..evaluation.npz import npz_array, npz_names
from ..evaluation.statistics import GENERATED, ImageStatistics, StatisticsCollector

FIELDS = ("features", "spatial", "logits")  # of a network's output; the last two where it has them


class FeatureWriter:
    """features/shard-00000.npz, ...: float32 rows of each field of a network's output."""

    def __init__(self, folder: Path):
        self.folder = folder / "features"

    def write(self, number: int, outputs: list) -> None:
        """Writes shard `number`; `outputs` are the network's for the batches of the shard, in order."""
        arrays = {
            name: torch.cat([getattr(output, name) for output in outputs]).cpu().numpy()
            for name in FIELDS
            if getattr(outputs[0], name, None) is not None
        }
        with written_whole(self._path(number)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    def collect(
        self, shards: int, network, generated: Rows, classes: Tensor, name: str, size: Size | None = None
    ) -> ImageStatistics:
        """The statistics of all shards, on the network's device: on a GPU the covariances of 50,000 rows take a moment.

        Shards are added in order, so the figures do not depend on who wrote which.

        Features and logits are kept of at most 50,000 images, evenly spaced. Duplicates are counted among `generated`,
        rows of tokens or latents (N, ...): images of the same row are the same. `size`: of the images in pixels.
        """
        collector, device = StatisticsCollector(len(classes)), getattr(network, "device", "cpu")
        for number in range(shards):
            path = self._path(number)
            rows = {field: torch.from_numpy(npz_array(path, field)).to(device) for field in npz_names(path)}
            collector.add(SimpleNamespace(**rows))
        return collector.statistics(
            network,
            name=name,
            transform=GENERATED,
            size=None if size is None else sides(size),
            duplicates=len(generated) - len({row.tobytes() for part in generated.parts for row in part}),
            class_counts=classes.bincount().tolist(),
        )

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.npz"
