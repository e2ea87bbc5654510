"""Statistics by the jobs of an array: the same to the bit as by one process, whoever did what and was killed."""

from functools import partial

import numpy as np
import pytest
import torch

from robustok.core.errors import UserError
from robustok.core.shards import ALL, NONE, Shard
from robustok.evaluation import parts as parts_module
from robustok.evaluation import statistics
from robustok.evaluation.statistics import collect
from robustok.evaluation.streams import NpzImages

from .test_statistics import Network

KEEP = 90  # rows of 330
collected = partial(parts_module.collected, keep=KEEP)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    for module in (statistics, parts_module):
        monkeypatch.setattr(module, "PART", 100)


@pytest.fixture
def stream(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (330, 6, 6, 3), np.uint8)
    images[310] = images[7]  # a duplicate of another part
    np.savez(tmp_path / "images.npz", images, np.arange(330) % 3)
    return NpzImages(tmp_path / "images.npz")


def by_jobs(stream, folder, shards):
    found = []
    for shard in shards:
        with collected(stream, Network(), shard, folder) as statistics:
            found.append(statistics)
    return found


@pytest.mark.parametrize("shards", [[Shard(2, 2), Shard(1, 2)], [Shard(n, 9) for n in (9, 2, 4, 1, 3)], [ALL]])
def test_any_sharing_gives_the_statistics_of_one_process(stream, tmp_path, shards):
    *others, found = by_jobs(stream, tmp_path / "parts", shards)
    assert not any(others)
    expected = collect(stream, Network(), keep=KEEP)
    assert torch.equal(found.pool.state(), expected.pool.state())
    assert torch.equal(found.spatial.state(), expected.spatial.state())
    assert torch.equal(found.features, expected.features) and torch.equal(found.logits, expected.logits)
    assert found.describe() == expected.describe()
    assert found.duplicates == 1 and found.size == (6, 6) and found.class_counts == [110, 110, 110]


def test_moments_are_those_of_all_images_at_once(stream, tmp_path):
    found = by_jobs(stream, tmp_path / "parts", [Shard(1, 2), Shard(2, 2)])[-1]
    rows = Network()(torch.cat(list(stream))).features.double()
    torch.testing.assert_close(found.pool.covariance, torch.cov(rows.T), rtol=1e-12, atol=1e-9)


def test_a_killed_job_goes_on_and_merge_waits_for_all(stream, tmp_path, monkeypatch):
    calls = []

    class Killed(Network):
        def __call__(self, images):
            calls.append(len(images))
            if len(calls) == 3:  # in its second part
                raise KeyboardInterrupt
            return super().__call__(images)

    folder = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt), collected(stream, Killed(), Shard(1, 2), folder):
        pass
    with pytest.raises(UserError, match=r"--merge: of .*images.npz there is no images 101 to 200, images 201 to 300"):
        by_jobs(stream, folder, [NONE])
    with collected(stream, Network(), Shard(2, 2), folder) as found:
        assert found is None
    before = len(list(folder.rglob("*.safetensors")))
    with collected(stream, Network(), Shard(1, 2), folder) as found:
        assert found.count == 330
    assert before == 3  # the part that was finished before the kill was not measured again
    assert not list(folder.rglob("*.safetensors"))
    with collected(stream, Network(), Shard(2, 2), folder) as found:
        assert found is None  # all is done


def test_parts_stay_where_the_report_fails(stream, tmp_path):
    folder = tmp_path / "parts"
    by_jobs(stream, folder, [Shard(1, 2)])
    with pytest.raises(OSError), collected(stream, Network(), Shard(2, 2), folder):
        raise OSError("disk full")
    with collected(stream, Network(), NONE, folder) as found:
        assert found.count == 330


def test_a_job_that_another_one_overtakes_leaves_the_work_to_it(stream, tmp_path, monkeypatch):
    """Both find all parts there; one puts them together and removes them before the other claims that."""
    folder, claim = tmp_path / "parts", parts_module.claim
    by_jobs(stream, folder, [Shard(1, 2)])

    def overtaken(path):
        if path.name == "merge":
            monkeypatch.setattr(parts_module, "claim", claim)
            assert by_jobs(stream, folder, [NONE])[0].count == 330
        return claim(path)

    monkeypatch.setattr(parts_module, "claim", overtaken)
    assert by_jobs(stream, folder, [Shard(2, 2)]) == [None]


def test_a_part_of_which_nothing_can_be_read_is_done(stream, tmp_path, monkeypatch):
    """Of 301 images the last, which is a part by itself."""
    read = NpzImages.batches
    monkeypatch.setattr(parts_module, "BAD_SHARE", 0.004)
    monkeypatch.setattr(NpzImages, "__len__", lambda self: 301)
    monkeypatch.setattr(NpzImages, "batches", lambda self, start, stop: read(self, start, min(stop, 300)))
    found = by_jobs(stream, tmp_path / "parts", [Shard(1, 2), Shard(2, 2)])[-1]
    assert found.count == 300 and found.duplicates == 0
    rows = Network()(torch.cat([*read(stream, 0, 300)])).features.double()
    torch.testing.assert_close(found.pool.covariance, torch.cov(rows.T), rtol=1e-12, atol=1e-9)
