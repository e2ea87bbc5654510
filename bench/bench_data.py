"""Training batches of each source beside Pillow alone on the same cores: what threads, order and checks cost."""

import os

import numpy as np
import pytest
import torch

from robustok.config import DataConfig
from robustok.data.images import open_images
from robustok.data.loader import batches

from . import recording
from .data_peers import PillowAlone, write_parquet, write_photos, write_tar

SIZE, BATCH = 256, 64


@pytest.fixture(scope="module")
def photos(tmp_path_factory, timed):
    return write_photos(tmp_path_factory.mktemp("photos"), 256 if timed else BATCH)


@pytest.fixture(scope="module")
def alone(photos):
    pillow = PillowAlone(sorted(photos.rglob("*.jpg")), SIZE, os.cpu_count() or 1)
    yield pillow
    pillow.close()


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_batches_keep_up_with_pillow(timed, record, photos, alone, tmp_path, kind):
    """The goal: of the images that Pillow alone decodes, resizes and crops on all cores, 0.9 come in batches."""
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    pack = {"folder": lambda folder, path: folder, "tar": write_tar, "parquet": write_parquet}[kind]
    split = open_images(DataConfig(root=str(pack(photos, tmp_path / f"0.{kind}")), val=0, test=0), SIZE).all
    cores = os.cpu_count() or 1

    def ours() -> torch.Tensor:
        for batch in batches(split, batch_size=BATCH, seed=0, epoch=0, augment=False):
            last = batch
        return last

    by_hand = alone.crops()[-1]
    row = (len(split) - cores) // cores * cores + cores - 1  # the last file of the last process
    assert np.array_equal(split.load(torch.tensor([row]))[0].numpy(), by_hand)
    ours()
    if not timed:
        return
    timings = recording.measure({"ours": ours, "pillow": alone.crops, "decoding only": alone.decoded})
    seconds = {name: sorted(times)[len(times) // 2] / 1e3 for name, times in timings.items()}
    rates = ", ".join(f"{name} {len(split) / value / cores:.0f}" for name, value in seconds.items())
    what = f"{kind}, {len(split)} JPEGs of 500 x 375 to {SIZE} px; images/s a core: {rates}"
    record.add_ratio(f"batches of a {kind}", what, 0.9, timings, "pillow", "ours")
