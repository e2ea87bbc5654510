"""What images are compared with: other images, or statistics that were saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..core.errors import UserError
from ..core.sizes import Size
from .npz import npz_header, npz_names
from .statistics import KEPT_REFERENCE, ImageStatistics, collect
from .streams import NpzImages, open_stream

PROBED = 64  # pixels along one side of the image that tells how many features a network gives


def load_reference(path: str | Path, network: Callable, size: Size | None = None) -> ImageStatistics:
    """What to compare with: images (see `open_stream`; cut to `size`), or statistics from an .npz, saved ones or ADM's.

    ADM's files hold both: statistics are taken as they are, and features for precision, recall and KID from the images.
    Raises UserError for a reference of another protocol, other weights or another dimension.
    """
    return open_reference(path, network, size)()


def open_reference(path: str | Path, network: Callable, size: Size | None = None) -> Callable[[], ImageStatistics]:
    """Opens what `load_reference` loads and refuses what it would, before any work; the result loads it when called."""
    if Path(path).suffix != ".npz":
        stream = open_stream(path, size)
        return lambda: collect(stream, network, keep=KEPT_REFERENCE)
    names = npz_names(path)
    if "mu" not in names:
        images = NpzImages(path)
        return lambda: collect(images, network, keep=KEPT_REFERENCE)
    reference = ImageStatistics.load(path)
    _refuse_other(reference, network, path)
    if not ("arr_0" in names and len(npz_header(path, "arr_0")[0]) == 4):
        return lambda: reference
    images = NpzImages(path)
    reference.size = images.shape[1:3]

    def with_features() -> ImageStatistics:
        if reference.features is None:
            reference.features = collect(images, network, keep=KEPT_REFERENCE).features
        return reference

    return with_features


def _refuse_other(reference: ImageStatistics, network: Callable, path: str | Path) -> None:
    """Raises UserError for statistics that are not of this network's features."""
    for what, found, expected in (
        ("features", reference.protocol, getattr(network, "protocol", None)),
        ("weights", reference.weights, getattr(network, "sha256", None)),
    ):
        if found is not None and found != expected:
            raise UserError(
                f"{path}: reference statistics of other {what} ({found}) than those used now ({expected});"
                " figures would not mean anything: make the reference again with `evaluate reference`"
            )
    if reference.protocol is None:  # nothing but their number tells whose features these are
        probe = torch.zeros(1, 3, PROBED, PROBED, dtype=torch.uint8)
        if (dim := network(probe).features.shape[1]) != reference.pool.dim:
            raise UserError(
                f"{path}: reference of {reference.pool.dim} features, but the network used now gives {dim}: make the"
                " reference again with `evaluate reference`"
            )
