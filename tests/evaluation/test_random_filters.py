"""Features of the untrained network: against a loop in float64, fixed for ever, and able to tell what judging needs."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from robustok import evaluate
from robustok.data.digits import Digits
from robustok.data.transforms import center_crop
from robustok.evaluation import frechet_distance
from robustok.evaluation.features.random_filters import MAPS, RandomFilters, random_filters
from robustok.evaluation.passes import moments_of

NETWORK = RandomFilters(device="cpu")


def drawn(count: int, height: int, width: int) -> torch.Tensor:
    numbers = np.random.default_rng(0).integers(0, 256, (count, 3, height, width), np.uint8)
    return torch.from_numpy(numbers)


def by_loop(image: np.ndarray) -> np.ndarray:
    """The definition, place by place, of one uint8 image (3, H, W)."""
    maps, found = image.astype(np.float64) / 127.5 - 1, []
    for filters in (stage.numpy() for stage in random_filters()):
        height, width = maps.shape[1:]
        made = np.zeros((len(filters), -(-height // 2), -(-width // 2)))
        for y, x in np.ndindex(made.shape[1:]):
            for dy, dx in np.ndindex(3, 3):
                row = min(max(2 * y + dy - 1, 0), height - 1)
                column = min(max(2 * x + dx - 1, 0), width - 1)
                made[:, y, x] += filters[:, :, dy, dx] @ maps[:, row, column]
        maps = abs(made)
        found += [maps.mean((1, 2)), maps.std((1, 2))]
    return 10 * np.concatenate(found)


@pytest.mark.parametrize("size", [(8, 8), (17, 12), (32, 32)])
def test_features_are_those_of_the_definition(size):
    images = drawn(3, *size)
    found = NETWORK(images).features
    assert found.shape == (3, 2 * sum(MAPS[1:])) and found.dtype == torch.float32
    np.testing.assert_allclose(found, [by_loop(image) for image in images.numpy()], rtol=1e-5, atol=2e-5)
    alone = RandomFilters(device="cpu", batch_size=1)(images).features
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=2e-5)


def test_a_caller_s_wish_for_determinism_stands(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    cudnn = torch.backends.cudnn
    note = lambda self, maps: seen.append((cudnn.deterministic, cudnn.allow_tf32)) or maps  # noqa: E731
    monkeypatch.setattr(RandomFilters, "_features", note)
    NETWORK(drawn(1, 8, 8))
    assert seen == [(True, False)]


def test_filters_are_orthonormal_and_see_changes_after_the_first_stage():
    for stage, filters in enumerate(random_filters()):
        rows = filters.flatten(1)
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64))
        assert (filters.sum((2, 3)).abs().amax() < 1e-12) == (stage > 0)
    a, b = (random_filters(seed)[0] for seed in (0, 1))
    assert (a - b).abs().amax() > 0.1


def test_features_stay_what_they_are():
    """Another value is another space: its protocol then needs another name."""
    y, x = np.mgrid[:32, :32]
    image = np.stack([8 * y, 8 * x, 255 * ((x // 4 + y // 4) % 2)]).astype(np.uint8)
    chosen = [0, 6, 12, 20, 28, 36, 44, 54]  # the first mean and the first deviation of each stage
    found = NETWORK(torch.from_numpy(image)[None]).features[0, chosen]
    expected = [6.60784929, 3.99404093, 3.56314200, 2.65767803, 2.05648140, 1.18931093, 1.07578910, 0.71799623]
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    np.testing.assert_allclose(by_loop(image)[chosen], expected, rtol=1e-8)


def blurred(images, strength):
    kernel = torch.tensor([strength, 1 - 2 * strength, strength])
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel.outer(kernel).expand(3, 1, 3, 3), groups=3)


def noisy(images, strength):
    return images + strength * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


def tinted(images, strength):
    return images + strength * torch.tensor([1.0, -1.0, 0.5])[:, None, None]


def of_other_images(images, share):
    """8 x 8 patches that are another image's at the same place, as a decoder gives them back from wrong tokens."""
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(images), 1, 4, 4, generator=generator) < share
    wrong = wrong.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return torch.where(wrong, images[torch.randperm(len(images), generator=generator)], images)


def patches_shuffled(images, share):
    """The patches of some of the images, in another order."""
    patches = images.unflatten(3, (4, 8)).unflatten(2, (4, 8)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    other = patches[:, order].unflatten(1, (4, 4)).permute(0, 3, 1, 4, 2, 5).reshape(images.shape)
    return torch.where((torch.arange(len(images)) % 100 < 100 * share)[:, None, None, None], other, images)


@pytest.fixture(scope="module")
def halves() -> torch.Tensor:
    source = Digits()
    order = np.random.default_rng(0).permutation(len(source.labels))[:600]  # stored writer by writer
    pictures = [np.asarray(center_crop(source.read(index), 32)) for index in order]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).unflatten(0, (2, 300))


@pytest.mark.parametrize(
    ("change", "strengths"),
    [
        (blurred, (0.08, 0.12, 0.18, 0.25)),
        (noisy, (8, 12, 16, 32)),
        (tinted, (4, 8, 16, 32)),
        (of_other_images, (0.05, 0.1, 0.2, 0.4)),
        (patches_shuffled, (0.05, 0.1, 0.2, 0.4)),
    ],
)
def test_the_distance_grows_with_every_kind_of_damage(halves, change, strengths):
    """From what an independent half of the same digits has."""
    images, others = halves
    reference = moments_of(NETWORK, [others])
    worse = [change(images, strength).round().clamp(0, 255).to(torch.uint8) for strength in strengths]
    found = [frechet_distance(moments_of(NETWORK, [batch]), reference) for batch in (images, *worse)]
    assert all(a < b for a, b in pairwise(found)), found


def test_no_weights_are_asked_for(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        np.savez(tmp_path / f"{name}.npz", np.random.default_rng(seed).integers(0, 256, (150, 16, 16, 3), np.uint8))
    argv = f"samples {tmp_path}/a.npz --reference {tmp_path}/b.npz --network random-filters --device cpu"
    evaluate.main([*argv.split(), "--output", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert 0 < found["metrics"]["fd"] < 100 and found["samples"]["protocol"] == NETWORK.protocol
