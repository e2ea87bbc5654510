"""A network of features is called with full batches, whatever the batches that images come in, by every pass."""

from math import ceil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from robustok.core.shards import Shard
from robustok.evaluation import interpolation_fid, noise_fid, pfid, quick_pfid, statistics
from robustok.evaluation import parts as parts_module
from robustok.evaluation.full_batches import FullBatches
from robustok.evaluation.passes import moments_of
from robustok.evaluation.reconstruction import evaluate_reconstruction
from robustok.evaluation.statistics import collect

N = 600


class Counting:
    """Features of a convolution, whose sums may be ordered otherwise for batches of other sizes."""

    protocol, sha256 = "convolution", None

    def __init__(self, batch_size: int | None = 256):
        if batch_size is not None:
            self.batch_size = batch_size
        self.calls: list[int] = []
        self.filters = torch.randn(9, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def __call__(self, images):
        self.calls.append(len(images))
        return SimpleNamespace(features=F.conv2d(images.float(), self.filters, stride=4).relu().mean((2, 3)))


class Stream:
    """N images in batches of one size."""

    name, transform, labels = "noise", "none", None

    def __init__(self, images, size):
        self.images, self.size = images, size

    def __len__(self):
        return len(self.images)

    def __iter__(self):
        return iter(self.images.split(self.size))

    def batches(self, start, stop):
        return iter(self.images[start:stop].split(self.size))

    def fingerprint(self):
        return "noise"


@pytest.fixture(scope="module")
def stream():
    images = np.random.default_rng(0).integers(0, 256, (N, 3, 16, 16), np.uint8)
    return Stream(torch.from_numpy(images), 50)


def shared(stream, network, folder):
    for job in (1, 2):
        with parts_module.collected(stream, network, Shard(job, 2), folder):
            pass


# Each pass of a tokenizer and a network over a stream, and how many sets of images it takes the features of.
PASSES = {
    "statistics": (lambda t, stream, network, folder: collect(stream, network), 1),
    "parts": (lambda t, stream, network, folder: shared(stream, network, folder), 1),
    "moments": (lambda t, stream, network, folder: moments_of(network, stream), 1),
    "reconstruction": (lambda t, stream, network, folder: evaluate_reconstruction(t, stream, network), 2),
    "pFID": (lambda t, stream, network, folder: pfid(t, stream, network, alphas=[0.5], deltas=[2, 5]), 4),
    "quick pFID": (lambda t, stream, network, folder: quick_pfid(t, stream, network), 5),
    "nFID": (lambda t, stream, network, folder: noise_fid(t, stream, network, strengths=[0.1]), 3),
    "iFID": (lambda t, stream, network, folder: interpolation_fid(t, stream, network), 2),
}


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_fills_the_networks_batches(name, tokenizer, stream, tmp_path):
    network, (run, sets) = Counting(), PASSES[name]
    tokenizer.detokenize = lambda tokens: tokenizer.decode(F.embedding(tokens, tokenizer.codebook))
    run(tokenizer, stream, network, tmp_path)
    assert len(network.calls) == ceil(N / 256) * sets  # and not N / 50, of which each would be filled up to 256
    assert sum(network.calls) == N * sets and max(network.calls) == 256


@pytest.mark.parametrize("size", [1, 7, 50, 64, 600])
def test_statistics_are_the_same_to_the_bit_in_batches_of_any_size(stream, size, monkeypatch):
    monkeypatch.setattr(statistics, "PART", 250)
    found, expected = (collect(Stream(stream.images, n), Counting(8)) for n in (size, 100))
    assert torch.equal(found.pool.state(), expected.pool.state()) and torch.equal(found.features, expected.features)


def cut(images, size, part=None, batch_size=None):
    """Sizes of the batches that a network gets of images that come `size` at a time; they are in order."""
    network, seen = Counting(batch_size), []
    batches = FullBatches(network, lambda output, images: seen.append(images), part)
    for batch in images.split(size):
        batches.add(batch)
    batches.finish()
    batches.finish()  # of nothing more
    assert torch.equal(torch.cat(seen), images)
    return network.calls


def test_batches_are_multiples_of_the_networks_and_large_enough_for_moments(stream):
    images = stream.images[:200]
    assert cut(images, 50, batch_size=8) == [64, 64, 64, 8]
    assert cut(images, 200, batch_size=48) == [96, 96, 8]
    assert cut(images, 30, batch_size=256) == [200]
    assert cut(images, 30) == [30] * 6 + [20]  # a network that does not say how many it computes at once


def test_no_batch_crosses_the_border_of_a_part(stream):
    images = stream.images[:200]
    assert cut(images, 30, part=100, batch_size=64) == [64, 36, 64, 36]
    assert cut(images, 30, part=100) == [30, 30, 30, 10, 20, 30, 30, 20]
