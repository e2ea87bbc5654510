"""The small classifier learns the digits in seconds, at any image size, and looks at each image by itself."""

import math

import pytest
import torch
from torch.nn import functional as F

from robustok.config import DataConfig
from robustok.data.images import open_images
from robustok.data.loader import batches
from robustok.data.transforms import from_uint8
from robustok.models.frozen.classifier import Classifier


@pytest.fixture(autouse=True)
def one_thread():
    """So small a network gains nothing from a second thread, and loses much where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(model: Classifier, split, epochs: int, batch_size: int = 64) -> None:
    """The recipe of the docstring."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    total = epochs * (len(split) // batch_size)
    step = 0
    for epoch in range(epochs):
        for batch in batches(split, batch_size=batch_size, seed=0, epoch=epoch):
            warmup = total / 10
            rising, falling = (step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
            optimizer.param_groups[0]["lr"] = 3e-3 * min(rising, falling if step > warmup else 1.0)
            loss = F.cross_entropy(model(from_uint8(batch.inputs)), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1


def test_it_reads_held_out_digits():
    images = open_images(DataConfig(val=200, test=300), 32)
    torch.manual_seed(0)
    model = Classifier(10, 32)
    train(model, images.train, epochs=5)
    held_out = from_uint8(images.test.load(torch.arange(300)))
    with torch.no_grad():
        features = model.features(held_out)
        accuracy = (model.head(features).argmax(1) == images.test.labels).float().mean()
    assert accuracy >= 0.97
    assert features.shape == (300, 64)
    assert torch.linalg.matrix_rank(features - features.mean(0)) == 64  # they carry a covariance of full rank


@pytest.mark.parametrize("size", [8, 28, 32, 64, 256])
def test_shapes_at_any_size(size):
    model = Classifier(7, size)
    images = torch.rand(2, 3, size, size) * 2 - 1
    taps = model.taps(images)
    assert model(images).shape == (2, 7)
    assert model.features(images).shape == (2, 64)
    assert len(taps) >= 3
    assert [tap.shape[-1] for tap in taps] == [math.ceil(size / 2 ** (i + 1)) for i in range(len(taps))]


def test_an_image_is_seen_alone_and_modes_do_not_differ():
    model = Classifier(10, 32)
    images = torch.rand(5, 3, 32, 32) * 2 - 1
    together = model.train().features(images)
    alone = torch.cat([model.eval().features(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
