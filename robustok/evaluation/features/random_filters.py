"""Features of an untrained network: fixed random filters, which no loss looks through and nothing was fitted to."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.random import FILTERS, keyed_normal
from ...data.transforms import from_uint8
from ...models.precision import without_tf32
from .measuring import measuring, parts

SEED = 0
MAPS = (3, 6, 8, 8, 10)  # colours, then the maps of each stage: few, so that 256 images have an extrapolated FD
SIDE = 3  # of a filter
# Of the features: without it the polynomial kernel of KID, (x . y / F + 1)^3, would hardly differ from a straight line,
# and distances would begin with zeros.
SCALE = 10.0


class RandomFiltersOutput(NamedTuple):
    """What `RandomFilters` gives, float32."""

    features: Tensor  # (B, 64) stage by stage: SCALE times the means of its maps, then their standard deviations


class RandomFilters:
    """Callable: uint8 images (B, 3, H, W) of any size -> `.features` (B, 64) float32, of an untrained network.

    Four stages of 3 x 3 filters with stride 2, edges repeated, each followed by the absolute value. Features are the
    mean and the (population) standard deviation of each map over its places, times SCALE. Filters of a stage are
    orthonormal: they keep the scale of what they see without statistics of any data. From the second stage on they sum
    to zero over their places, so that they see how the maps of the stage before change; brightness and colour are for
    the first stage.

    Networks with random weights can judge generated images (Naeem et al. 2020, arXiv 2002.09797, a random VGG-16);
    random filters followed by the absolute value come close to learned ones (Jarrett et al. 2009). A place of the last
    stage sees 31 x 31 pixels: in larger images the features know textures and parts, and nothing of the layout.

    What a filter is depends on SEED, its stage and its number alone, and is the same on every machine up to rounding;
    so are features, for any batch size. Distances are named FD, they are no FID.
    """

    def __init__(self, *, device: torch.device | str | None = None, batch_size: int = 256):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.batch_size = batch_size
        self.filters = [filters.to(self.device, torch.float32) for filters in random_filters()]
        self.protocol, self.sha256 = f"random-filters-1-seed-{SEED}/float32", None

    @measuring
    def __call__(self, images: Tensor) -> RandomFiltersOutput:
        with without_tf32():
            batches = parts(images, self.batch_size, self.device)
            return RandomFiltersOutput(torch.cat([self._features(from_uint8(batch)) for batch in batches]))

    def _features(self, maps: Tensor) -> Tensor:
        found = []
        for filters in self.filters:
            maps = F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), filters, stride=2).abs()
            found += [maps.mean((2, 3)), maps.std((2, 3), correction=0)]
        return torch.cat(found, 1) * SCALE


def random_filters(seed: int = SEED) -> list[Tensor]:
    """The filters of each stage, (maps out, maps in, 3, 3) float64, orthonormal; those after the first sum to zero over
    the places of each map.
    """
    stages = []
    for stage, (seen, made) in enumerate(pairwise(MAPS)):
        drawn = keyed_normal(seed, FILTERS, torch.arange(made), (seen, SIDE * SIDE), stage).double()
        if stage:
            drawn -= drawn.mean(2, keepdim=True)
        columns, triangle = torch.linalg.qr(drawn.flatten(1).T)
        stages.append((columns * triangle.diagonal().sign()).T.reshape(made, seen, SIDE, SIDE))
    return stages
