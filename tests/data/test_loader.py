"""The order of images is a function of seed and epoch, whatever the threads, the processes, the place of a restart."""

import subprocess
import sys
import tarfile

import pytest
import torch

from robustok.config import DataConfig
from robustok.core.errors import UserError
from robustok.data import loader
from robustok.data.images import open_images
from robustok.data.loader import batches, in_order

from .conftest import write_parquet


@pytest.fixture(params=["folder", "tar", "parquet"])
def split(request, photos, tmp_path):
    """The 19 training images of each kind of source; the Parquet files are in groups of 4, of which 2 are shuffled."""
    root = photos
    if request.param == "tar":
        root = tmp_path / "0.tar"
        with tarfile.open(root, "w") as tar:
            tar.add(photos, ".")
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
        write_parquet(photos, root := tmp_path / "hf")
    found = open_images(DataConfig(root=str(root), val=1, test=1, crop_min=0.6, flip=True), 16).train
    if found.blocks is not None:
        found.blocks = found.blocks._replace(at_once=2)
    return found


def collect(split, **settings):
    return list(batches(split, **{"batch_size": 6, "seed": 1, "epoch": 2, **settings}))


def test_an_epoch_gives_every_image_at_most_once_and_drops_the_rest(split):
    found = collect(split)
    rows = torch.cat([batch.rows for batch in found])
    assert [len(batch.rows) for batch in found] == [6, 6, 6]
    assert len(rows.unique()) == 18
    for batch in found:
        assert torch.equal(batch.labels, split.labels[batch.rows])
        assert torch.equal(batch.ids, split.ids[batch.rows])


def test_epochs_and_seeds_are_shuffled_differently(split):
    orders = {
        tuple(torch.cat([b.rows for b in collect(split, seed=s, epoch=e)]).tolist()) for s in (1, 2) for e in (0, 1)
    }
    assert len(orders) == 4


@pytest.mark.parametrize("threads", [0, 1, 4, 16])
def test_threads_change_nothing(split, threads):
    for one, other in zip(collect(split), collect(split, threads=threads), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_processes_share_out_each_global_batch(split, world):
    parts = [collect(split, rank=rank, world=world) for rank in range(world)]
    for whole, *shares in zip(collect(split), *parts, strict=True):
        for name in whole._fields:
            assert torch.equal(getattr(whole, name), torch.cat([getattr(share, name) for share in shares]))


def test_start_resumes_in_the_middle_of_an_epoch(split):
    for one, other in zip(collect(split)[1:], collect(split, start=1), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("world", "threads"), [(1, 0), (2, 1), (3, 4), (4, 2)])
@pytest.mark.parametrize("start", [0, 1])
def test_ids_of_an_epoch_for_any_readers_processes_and_restart(split, world, threads, start, monkeypatch):
    """Each from a loader of its own, in pieces of two images."""
    monkeypatch.setattr(loader, "PIECE", 2)
    whole = [batch.ids.tolist() for batch in collect(split, batch_size=12 // world * world)]
    for rank in range(world):
        settings = {"rank": rank, "world": world, "threads": threads, "start": start}
        part = [batch.ids.tolist() for batch in collect(split, batch_size=12 // world * world, **settings)]
        share = 12 // world
        assert part == [ids[rank * share : (rank + 1) * share] for ids in whole[start:]]


def test_pinned_batches_are_the_same_and_their_rows_stay_with_the_host(split, monkeypatch):
    """Every tensor of a batch is put together in page-locked memory, of one piece and of several."""
    asked = []

    def empty(*shape, pin_memory, **kwargs):  # this machine may have no GPU, and then no such memory
        asked.append(pin_memory)
        return torch.zeros(*shape, **kwargs)

    given = {"batch_size": 6, "seed": 1, "epoch": 0}
    for piece in (2, 16):
        monkeypatch.setattr(loader, "PIECE", piece)
        plain = next(batches(split, **given))
        with monkeypatch.context() as patch:
            patch.setattr(loader.torch, "empty", empty)
            pinned = next(batches(split, **given, pin=True))
        assert all(map(torch.equal, plain, pinned)) and asked == [True] * 4
        asked.clear()
    assert plain.to(torch.device("meta")).rows is plain.rows


def test_no_more_than_asked_for_waits(split, monkeypatch):
    """What is loaded ahead is bounded: two batches and what the threads are at."""
    monkeypatch.setattr(loader, "PIECE", 1)
    loaded = []
    plain = split.load
    monkeypatch.setattr(split, "load", lambda rows, **settings: loaded.append(len(rows)) or plain(rows, **settings))
    found = batches(split, batch_size=3, seed=0, epoch=0, threads=2)
    next(found)
    assert sum(loaded) <= 3 + 6 + 1
    found.close()
    assert sum(loaded) <= 3 + 6 + 1 + 2


def test_augmentation_changes_with_the_epoch_and_can_be_off(split):
    first = {int(i): image for b in collect(split, epoch=0) for i, image in zip(b.ids, b.inputs, strict=True)}
    second = {int(i): image for b in collect(split, epoch=1) for i, image in zip(b.ids, b.inputs, strict=True)}
    common = first.keys() & second.keys()
    assert sum(torch.equal(first[i], second[i]) for i in common) < len(common) / 2
    plain = collect(split, augment=False)[0]
    assert torch.equal(plain.inputs, split.load(plain.rows))


def test_in_order_gives_every_image_once_as_evaluation_sees_it(split):
    found = list(in_order(split, batch_size=8))
    assert [len(batch) for batch in found] == [8, 8, 3]
    assert torch.equal(torch.cat(found), split.load(torch.arange(19)))


def test_impossible_batches_are_refused_at_once(split):
    with pytest.raises(UserError, match="only 19 images"):
        batches(split, batch_size=20, seed=0, epoch=0)
    with pytest.raises(UserError, match="multiple of 4"):
        batches(split, batch_size=6, seed=0, epoch=0, world=4)


def test_errors_of_a_thread_reach_the_caller(photos):
    split = open_images(DataConfig(root=str(photos), val=1, test=1), 16).train
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    with (
        pytest.raises(UserError, match=r"no readable image of class|images of 21 cannot be used"),
        pytest.warns(UserWarning),
    ):
        collect(split)


def test_a_process_ends_at_once_with_batches_half_loaded(photos):
    """Nothing that was begun ahead is waited for longer than it takes."""
    script = f"""
import sys
from robustok.config import DataConfig
from robustok.data.images import open_images
from robustok.data.loader import batches
split = open_images(DataConfig(root={str(photos)!r}, val=1, test=1), 16).train
kept = batches(split, batch_size=4, seed=0, epoch=0, threads=3)
next(kept)
sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=120, capture_output=True)
    assert (done.returncode, done.stderr) == (3, b"")
