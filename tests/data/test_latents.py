"""Latent shards: what is written is read back, and statistics are those of NumPy however the work was shared."""

import json
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn

from robustok import check_data, pretokenize
from robustok.config import DataConfig
from robustok.core.cli import run_verb
from robustok.core.errors import RunError, UserError
from robustok.data.images import open_images
from robustok.data.latents import LatentMoments, LatentWriter, open_latents, open_rows, write_latents
from robustok.data.row_datasets import RowDataset
from robustok.data.tokenization import EncodedImages
from robustok.data.tokens import open_tokens, write_tokens

ABOUT = {"tokenizer": "abc", "latent_shape": [4, 3], "class_names": ["cat", "dog"]}


def rows(count: int):
    """Latents far from zero, where sums of squares would lose most digits."""
    latents = torch.randn(count, 4, 3, generator=torch.Generator().manual_seed(count))
    return latents * torch.tensor([1.0, 0.01, 50.0]) + torch.tensor([0.0, 300.0, -7.0]), torch.arange(count) % 2


def test_written_latents_are_read_back_with_the_statistics_of_numpy(tmp_path):
    latents, labels = rows(700)
    found = write_latents(tmp_path, latents, labels, torch.arange(700) * 3, ABOUT)
    assert np.array_equal(found.latents[:], latents.numpy())
    assert torch.equal(found.ids, torch.arange(700) * 3)
    flat = latents.double().flatten(0, 1).numpy()
    np.testing.assert_allclose(found.mean, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, flat.std(0), rtol=1e-9)
    data = RowDataset(found)
    assert torch.equal(data.load(torch.tensor([5, 699])), latents[[5, 699]])
    assert torch.equal(data.labels, labels)


def test_statistics_do_not_depend_on_the_order_in_which_shards_were_written(tmp_path):
    latents, labels = rows(25)
    found = []
    for number, order in enumerate(permutations(range(3))):
        writer = LatentWriter(tmp_path / str(number), ABOUT, shard_rows=10)
        for shard in order:
            part = slice(shard * 10, shard * 10 + 10)
            writer.write(shard, latents[part], labels[part], torch.arange(25)[part])
        found.append(writer.finish(25).statistics())
    assert all(statistics == found[0] for statistics in found)
    np.testing.assert_allclose(found[0]["std"], latents.double().flatten(0, 1).std(0, correction=0), rtol=1e-9)


def test_a_channel_that_never_changes_can_be_divided_by():
    assert LatentMoments.of(np.full((5, 2, 3), 0.1, np.float32)).std.tolist() == [1.0, 1.0, 1.0]


def test_latents_that_cannot_be_right_are_refused(tmp_path):
    writer = LatentWriter(tmp_path, ABOUT)
    ids = torch.arange(2)
    with pytest.raises(ValueError, match=r"found \(2, 4, 5\), expected \(n, 4, 3\)"):
        writer.write(0, torch.zeros(2, 4, 5), ids, ids)
    with pytest.raises(RunError, match="not finite"):
        writer.write(0, torch.full((2, 4, 3), torch.nan), ids, ids)
    assert writer.missing(2) == [0]


def test_tokens_and_latents_are_told_apart(tmp_path):
    latents, labels = rows(5)
    write_latents(tmp_path / "latents", latents, labels, labels, ABOUT)
    about = {"tokenizer": "abc", "codebook_size": 9, "class_names": ["cat", "dog"]}
    write_tokens(tmp_path / "tokens", torch.zeros(5, 4, dtype=torch.int64), labels, labels, about)
    assert open_rows(tmp_path / "latents").array == "latents"
    assert open_rows(tmp_path / "tokens").array == "tokens"
    with pytest.raises(UserError, match=r"expected latent shards, but its manifest\.json has no latent_shape"):
        open_latents(tmp_path / "tokens")
    with pytest.raises(UserError, match="expected token shards"):
        open_tokens(tmp_path / "latents")


class QuarterMeans(nn.Module):
    """A continuous tokenizer whose latents are the mean colours of the quarters of an image."""

    latent_shape = (4, 3)

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    @property
    def device(self):
        return self.scale.device

    def encoder_parameters(self):
        return self.parameters()

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(images, images.shape[-1] // 2).flatten(2).mT * self.scale


def test_images_become_latents_whatever_the_processes_and_batches(photos, tmp_path):
    split = open_images(DataConfig(root=str(photos), val=2, test=2), 16).train
    one = EncodedImages(QuarterMeans(), split, tmp_path / "one", augment="flip", images_per_shard=4)
    one.run()
    for rank in (1, 0):
        two = EncodedImages(QuarterMeans(), split, tmp_path / "two", augment="flip", images_per_shard=4)
        two.run(batch_size=3, rank=rank, world=2)
    one, two = one.finish(), two.finish()
    assert one.latents.shape == (34, 4, 3)
    assert np.array_equal(one.latents[:], two.latents[:])
    assert one.statistics() == two.statistics()
    views = split.load_views(torch.arange(17), "flip").flatten(0, 1).double() / 127.5 - 1
    expected = views.unflatten(2, (2, 8)).unflatten(4, (2, 8)).mean((3, 5)).flatten(2).mT
    np.testing.assert_allclose(one.latents[:], expected, atol=1e-6)


def test_verbs_know_latent_shards(tmp_path, capsys):
    latents, labels = rows(5)
    found = write_latents(tmp_path / "latents", latents, labels, labels, ABOUT)
    assert run_verb(pretokenize.main, [str(tmp_path / "latents"), str(tmp_path / "statistics.json")]) == 0
    assert json.loads((tmp_path / "statistics.json").read_text()) == found.statistics()
    assert run_verb(pretokenize.main, [str(tmp_path / "latents"), str(tmp_path / "other")]) == 2
    assert run_verb(pretokenize.main, [str(tmp_path / "latents"), str(tmp_path / "a.jsonl")]) == 2
    capsys.readouterr()
    assert run_verb(check_data.main, [str(tmp_path / "latents"), "--json"]) == 0
    survey = json.loads(capsys.readouterr().out)
    assert (survey["sequences"], survey["latents"], survey["classes"]) == (5, [4, 3], {"cat": 3, "dog": 2})
