"""The order of images is a function of seed and epoch, whatever the threads, the processes, the place of a restart."""

import pytest
import torch

from robustok.config import DataConfig
from robustok.core.errors import UserError
from robustok.data.images import open_images
from robustok.data.loader import batches, in_order


@pytest.fixture
def split(photos):
    return open_images(DataConfig(root=str(photos), val=1, test=1, crop_min=0.6, flip=True), 16).train  # 19 images


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


@pytest.mark.parametrize("threads", [1, 4, 16])
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


def test_errors_of_a_thread_reach_the_caller(split, photos):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError), pytest.warns(UserWarning):
        collect(split)
