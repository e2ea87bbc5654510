"""One pass of a network over batches: moments against numpy, and the share that is read as its class."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robustok.evaluation.passes import moments_and_agreement, moments_of


def network(images):
    """Features: the mean of each colour. Logits: the same, so that an image's class is its strongest colour."""
    means = images.float().mean((2, 3))
    return SimpleNamespace(features=means, logits=means)


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (23, 3, 8, 8), np.uint8))


def test_moments_are_those_of_all_images_at_once(images):
    found = moments_of(network, iter(images.split(5)))
    means = images.double().mean((2, 3)).numpy()
    assert found.count == 23
    np.testing.assert_allclose(found.mean.cpu(), means.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.covariance.cpu(), np.cov(means, rowvar=False), rtol=1e-4)


def test_agreement_is_the_share_that_is_read_as_its_class(images):
    strongest = torch.from_numpy(images.double().mean((2, 3)).numpy().argmax(1))
    wrong = strongest.clone()
    wrong[[0, 7, 22]] = (wrong[[0, 7, 22]] + 1) % 3  # the first and the last batch among them
    found, all_right = moments_and_agreement(network, images.split(5), strongest)
    assert all_right == 1.0
    assert moments_and_agreement(network, images.split(5), wrong)[1] == pytest.approx(20 / 23)
    assert torch.equal(found.mean, moments_of(network, images.split(5)).mean)


def test_no_batch_is_refused():
    with pytest.raises(ValueError, match="found none"):
        moments_of(network, [])
