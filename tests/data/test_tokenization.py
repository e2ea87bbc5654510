"""Tokenising a split: which row is which view of which image, and that stopping or sharing changes nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from robustok.config import DataConfig
from robustok.core.errors import UserError
from robustok.core.shards import NONE, Shard
from robustok.data.images import open_images
from robustok.data.tokenization import EncodedImages
from tests.transfers import WHILE_THE_NEXT_IS_MADE, Transfers


class BlockMeans(nn.Module):
    """A tokenizer whose token is the mean red value, 0..255, of a quarter of the image."""

    def __init__(self):
        super().__init__()
        self.codebook = nn.Parameter(torch.zeros(256, 1))

    @property
    def device(self):
        return self.codebook.device

    def encoder_parameters(self):
        return self.parameters()

    def tokenize(self, images):
        size = images.shape[-1] // 2
        means = torch.nn.functional.avg_pool2d(images[:, 0], size)
        return ((means.flatten(1) + 1) * 127.5).floor().long()


def block_means(image: np.ndarray) -> list[int]:
    """The same of uint8 (3, S, S), in float64."""
    half = image.shape[-1] // 2
    return [int(np.floor(image[0, y : y + half, x : x + half].mean())) for y in (0, half) for x in (0, half)]


@pytest.fixture
def split(photos):
    return open_images(DataConfig(root=str(photos), val=2, test=2), 16).train  # 17 images


def make(split, folder, **settings):
    return EncodedImages(BlockMeans(), split, folder, images_per_shard=4, **settings)


@pytest.mark.parametrize("augment, views", [("none", 1), ("flip", 2), ("tencrop", 10)])
def test_rows_are_the_views_of_each_image_in_turn(split, tmp_path, augment, views):
    work = make(split, tmp_path / "tokens", augment=augment)
    seen = []
    work.run(batch_size=3, progress=lambda done, total: seen.append((done, total)))
    found = work.finish()
    assert found.tokens.shape == (17 * views, 4)
    assert seen[-1] == (17, 17)
    assert torch.equal(found.labels, split.labels.repeat_interleave(views))
    assert torch.equal(found.ids, split.ids.repeat_interleave(views))
    images = split.load_views(torch.arange(17), augment).flatten(0, 1).numpy()
    expected = np.array([block_means(image) for image in images])
    assert np.abs(found.tokens[:].astype(int) - expected).max() <= 1  # a mean at a whole number may floor either way
    assert (found.tokens[:] == expected).mean() > 0.98


def test_tokens_reach_the_host_while_the_next_are_made(split, tmp_path, monkeypatch):
    work, transfers = EncodedImages(BlockMeans(), split, tmp_path / "tokens"), Transfers(monkeypatch)
    transfers.of(work.tokenizer, "tokenize")
    work.run(batch_size=6)
    assert transfers.log == WHILE_THE_NEXT_IS_MADE
    expected = make(split, tmp_path / "one")
    monkeypatch.undo()
    expected.run()
    assert np.array_equal(work.finish().tokens[:], expected.finish().tokens[:])


class TwoCodebooks(BlockMeans):
    """The same token twice, as a tokenizer of two codebooks gives them."""

    def __init__(self):
        super().__init__()
        self.codebook = nn.Parameter(torch.zeros(2, 256, 1))

    def tokenize(self, images):
        return super().tokenize(images)[..., None].expand(-1, -1, 2)


def test_several_codebooks_give_several_indices_a_token(split, tmp_path):
    work = EncodedImages(TwoCodebooks(), split, tmp_path / "two")
    work.run()
    found = work.finish()
    assert found.manifest["codebook_size"] == 256
    single = make(split, tmp_path / "one")
    single.run()
    assert np.array_equal(found.tokens[:], np.repeat(single.finish().tokens[:][..., None], 2, axis=-1))


def test_processes_and_restarts_write_the_same_tokens(split, tmp_path):
    whole = make(split, tmp_path / "one")
    whole.run(batch_size=4)
    for rank in range(3):
        work = make(split, tmp_path / "three")
        work.run(batch_size=2, rank=rank, world=3)
    stopped = make(split, tmp_path / "stopped")

    def stop(done, _):
        if done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.run(batch_size=1, progress=stop)
    again = make(split, tmp_path / "stopped")
    assert again.writer.missing(17) == [2, 3, 4]
    again.run()
    expected = whole.finish().tokens[:]
    assert np.array_equal(work.finish().tokens[:], expected)
    assert np.array_equal(again.finish().tokens[:], expected)


def test_another_tokenizer_or_other_images_are_refused(split, tmp_path, photos):
    make(split, tmp_path / "tokens")
    other = BlockMeans()
    nn.init.ones_(other.codebook)
    with pytest.raises(UserError, match="tokenizer"):
        EncodedImages(other, split, tmp_path / "tokens", images_per_shard=4)
    fewer = open_images(DataConfig(root=str(photos), val=3, test=2), 16).train
    with pytest.raises(UserError, match="images"):
        make(fewer, tmp_path / "tokens")


@pytest.mark.parametrize("jobs", [(2, 1, 3), (9, 3, 1, 2, 4, 5)])
def test_jobs_of_an_array_write_what_one_writes(split, tmp_path, jobs):
    """Shards of 4 of 17 images: whoever writes the last one finishes the folder, all others get nothing."""
    alone = make(split, tmp_path / "alone").run_on_all_processes()
    count, found = max(jobs), []
    for number in jobs:
        work = make(split, tmp_path / "jobs")
        found.append(work.run_on_all_processes(shard=Shard(number, count)))
        assert (found[-1] is None) == bool(work.missing())
    assert found[:-1] == [None] * (len(jobs) - 1)
    assert np.array_equal(found[-1].tokens[:], alone.tokens[:]) and torch.equal(found[-1].ids, alone.ids)
    assert len(make(split, tmp_path / "jobs").run_on_all_processes(shard=NONE)) == 17  # --merge, once more
