"""torch-fidelity itself on the same random weights and images, stage by stage: resize, first block, features, metrics.

Skipped where torch-fidelity (extra `bench`) or the torchvision it imports cannot be loaded.
"""

import numpy as np
import pytest
import torch

from robustok.evaluation import (
    FeatureStatistics,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from robustok.evaluation.features.inception import normalize, tf1_resize

fidelity = pytest.importorskip("torch_fidelity", exc_type=ImportError)


@pytest.fixture(scope="module")
def extractor(inception_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    taps = ["64", "192", "768", "2048", "logits_unbiased"]
    return FeatureExtractorInceptionV3("live", taps, feature_extractor_weights_path=str(inception_path))


@pytest.fixture(scope="module")
def pictures():
    draw = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (3, 3, 48, 80), generator=draw, dtype=torch.uint8)


def close(found, expected, tolerance=1e-4):
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def test_resize(pictures):
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    theirs = interpolate_bilinear_2d_like_tensorflow1x(pictures.float(), size=(299, 299), align_corners=False)
    assert torch.equal(tf1_resize(pictures.float()), theirs)


def test_first_block(pictures, extractor, inception):
    inputs = normalize(tf1_resize(pictures.float()))
    with torch.no_grad():
        close(inception.network.Conv2d_1a_3x3(inputs), extractor.Conv2d_1a_3x3(inputs), 1e-6)


def test_features(pictures, extractor, inception):
    found = inception(pictures)
    ours = (found.features64, found.features192, found.features768, found.features, found.logits)
    for mine, theirs in zip(ours, extractor(pictures), strict=True):
        close(mine, theirs)


def test_distances_and_scores():
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    draw = torch.Generator().manual_seed(3)
    a, b = torch.randn(180, 24, generator=draw).double().abs(), torch.randn(150, 24, generator=draw).double() + 0.3
    quiet = {"verbose": False, "rng_seed": 2020}
    moments = [{"mu": x.mean(0).numpy(), "sigma": np.cov(x.numpy(), rowvar=False)} for x in (a, b)]
    fid = fid_statistics_to_metric(*moments, False)["frechet_inception_distance"]
    sides = [FeatureStatistics(24).update(x) for x in (a, b)]
    assert frechet_distance(*sides) == pytest.approx(fid, rel=1e-6)
    kid = kid_features_to_metric(a, b, kid_subsets=20, kid_subset_size=60, **quiet)
    assert kernel_distance(a, b, 20, 60) == pytest.approx(tuple(kid.values()), rel=1e-6)
    isc = isc_features_to_metric(a, splits=5, shuffle=True, rng_seed=2020)
    assert inception_score(a, 5) == pytest.approx(tuple(isc.values()), rel=1e-6)
    prc = prc_features_to_metric(a.float(), b.float(), **quiet)
    assert precision_recall(b, a) == pytest.approx((prc["precision"], prc["recall"]), rel=1e-6)
