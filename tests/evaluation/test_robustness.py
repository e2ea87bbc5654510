"""What is measured of a tokenizer of each kind, against the definition written out."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustok.core.random import NOISE, keyed_normal
from robustok.data.transforms import from_uint8, to_uint8
from robustok.evaluation import FeatureStatistics, frechet_distance, pfid
from robustok.evaluation.intervals import Estimate
from robustok.evaluation.judging import distances_of_rows
from robustok.evaluation.noise import noise_fid
from robustok.evaluation.robustness import robustness
from robustok.model_configs import TokenizerConfig
from robustok.models.tokenizers.continuous import ContinuousBase
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer

IMAGES = torch.randint(0, 256, (23, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def batches():
    return IMAGES.split(10)


def features(images):
    return SimpleNamespace(features=images.float().flatten(2).mean(2))


class Plain(ContinuousBase):
    """Pixels times 3 as latents (B, 3, 64): channels of a mean and a spread of their own."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    @property
    def device(self):
        return self.unused.device

    def encode(self, images):
        return 3 * images.flatten(2)

    def decode(self, z):
        return z.unflatten(2, (8, 8)) / 3

    def encoder_side(self):
        return ()

    def decoder_side(self):
        return ()


def rows(images):
    return features(images).features


def distance(images):
    sides = [FeatureStatistics(3), FeatureStatistics(3)]
    for side, these in zip(sides, (images, IMAGES), strict=True):
        side.update(features(these).features)
    return frechet_distance(*sides)


def test_latents_get_noise_in_their_own_standard_deviations():
    tokenizer = Plain()
    found = robustness(tokenizer, batches, features)
    expected = noise_fid(tokenizer, batches(), features)
    assert found.figure == "nfd"
    assert list(found.estimates()) == ["rfd", "rfd_inf", "rkd", "nfd", "nkd"]
    assert (found.clean, found.mean) == (expected.rfid, expected.mean) and expected.unbiased.mean == {}
    assert found.table == [[strength, value] for strength, value in expected.table.items()]
    z = 3 * from_uint8(IMAGES).flatten(2)
    noise = keyed_normal(0, NOISE, torch.arange(23), (3, 64))
    noisy = z + 0.5 * z.std((0, 1), correction=0) * noise
    shown = to_uint8(tokenizer.decode(noisy).clamp(-1, 1))
    pictured = found.pictured(IMAGES)
    assert list(pictured) == [(t,) for t in (0, 0.1, 0.2, 0.3, 0.4, 0.5)]
    assert (pictured[0.5,].int() - shown.int()).abs().max() <= 1
    assert (pictured[0,].int() - IMAGES.int()).abs().max() <= 1
    assert distance(shown) == pytest.approx(found.table[-1][1], rel=1e-3)


@pytest.mark.parametrize("scales", [None, (1, 2)])
def test_tokens_get_pfid_where_it_is_defined(scales):
    config = TokenizerConfig(image_size=8, patch_size=4, width=16, depth=1, heads=2, codebook_size=256, scales=scales)
    torch.manual_seed(0)
    tokenizer = ViTTokenizer(config).eval()
    found = robustness(tokenizer, batches, features)
    if scales is not None:  # residual codes have no neighbours
        assert found.figure is None and found.estimates().keys() == {"rfd", "rfd_inf", "rkd"} and found.pictured is None
        assert found.clean == pytest.approx(distance(to_uint8(tokenizer.reconstruct(from_uint8(IMAGES)))))
        return
    expected = pfid(tokenizer, batches(), features)
    figures = found.estimates("fid")
    assert list(figures) == ["rfid", "rfid_inf", "rkd", "pfid", "pkd"]
    assert (figures["rfid"], figures["pfid"]) == (expected.rfid, expected.mean)
    assert robustness(tokenizer, batches, features, quick=True).estimates().keys() == {"rfd", "pfd"}
    assert found.mean.interval == expected.mean.interval and found.mean.interval[0] < found.mean
    assert found.table == [[*setting, value] for setting, value in expected.table.items()]
    pictured = found.pictured(IMAGES)  # what was measured, measured again
    assert list(pictured) == [(0.0, 1), *expected.table]
    assert distance(pictured[0.9, 4]) == pytest.approx(expected.table[0.9, 4])
    kernel = [distances_of_rows(rows(images), rows(IMAGES), paired=True)["kd"] for images in pictured.values()]
    assert figures["rkd"] == pytest.approx(kernel[0]) and figures["pkd"] == pytest.approx(sum(kernel[1:]) / 15)
    assert figures["pkd"].half_width == pytest.approx(Estimate.mean(kernel[1:]).half_width)
