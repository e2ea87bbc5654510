"""LPIPS agrees with the authors' implementation, on weights from a recipe; its files are read under published names."""

import numpy as np
import pytest
import torch

from robustok.core.errors import UserError
from robustok.models.frozen.lpips import LPIPS, load_lpips

VGG_CHANNELS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
VGG_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of the convolutions in torchvision's `features`


@pytest.fixture(scope="module")
def recipe(golden):
    """The published files' contents, made from the seed of the golden data: (VGG-16, linear layers)."""
    random = np.random.RandomState(int(golden("lpips_io")["recipe_seed"]))
    vgg, linear, sums, channels = {}, {}, [], 3

    def tensor(values):
        values = values.astype(np.float32)
        sums.append(values.sum(dtype=np.float64))
        return torch.from_numpy(values)

    for place, width in zip(VGG_PLACES, VGG_CHANNELS, strict=True):
        bound = np.sqrt(6 / (9 * channels))
        vgg[f"features.{place}.weight"] = tensor((2 * random.random_sample((width, channels, 3, 3)) - 1) * bound)
        vgg[f"features.{place}.bias"] = tensor((2 * random.random_sample(width) - 1) * 0.1)
        channels = width
    for i, width in enumerate((64, 128, 256, 512, 512)):
        linear[f"lin{i}.model.1.weight"] = tensor(random.random_sample((1, width, 1, 1)))
    np.testing.assert_allclose(sums, golden("lpips_io")["weight_sums"].numpy(), rtol=1e-9, atol=1e-9)
    return vgg, linear


@pytest.fixture(scope="module")
def lpips(recipe, tmp_path_factory) -> LPIPS:
    vgg, linear = recipe
    folder = tmp_path_factory.mktemp("lpips")
    torch.save(vgg | {"classifier.0.weight": torch.zeros(2, 2)}, folder / "vgg16-397923af.pth")
    torch.save(linear, folder / "vgg.pth", _use_new_zipfile_serialization=False)  # the published file is that old
    return load_lpips(folder)


@pytest.fixture(scope="module")
def pair(images):
    return images, 0.8 * images.roll(1, 0).flip(-1) + 0.1


def test_small_images(lpips, golden, pair, near):
    reference = golden("lpips_io")
    x, y = (v[:, :, 64:128, 96:160].clone() for v in pair)
    y.requires_grad_()
    distance = lpips.train()(x, y)  # the same in either mode
    near(distance, reference["lpips_64"].flatten(), 1e-5)
    near(lpips.per_stage(x, y), reference["lpips_64_per_layer"], 1e-5)
    distance.mean().backward()
    difference = (y.grad[:, :, 3::7, 5::7] - reference["lpips_64_grad_s7"]).abs()
    # rounding turns a few ReLUs and poolings the other way, which moves the gradient of the pixels that they see
    assert difference.median() < 1e-5 * reference["lpips_64_grad_s7"].abs().max()
    assert y.grad.norm().item() == pytest.approx(reference["lpips_64_grad_norm"].item(), rel=1e-3)


def test_full_images(lpips, golden, pair, near):
    reference = golden("lpips_io")
    with torch.no_grad():
        near(lpips(*pair), reference["lpips_256"].flatten(), 1e-5)


def test_missing_file(recipe, tmp_path):
    torch.save(recipe[1], tmp_path / "vgg.pth")
    with pytest.raises(UserError, match=r"26 of 31 LPIPS tensors are missing \(features.0.weight"):
        load_lpips(tmp_path)
    with pytest.raises(UserError, match=r"nowhere does not exist; expected the folder of vgg\.pth"):
        load_lpips(tmp_path / "nowhere")
