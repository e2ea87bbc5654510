"""The discriminator: golden data of the authors' implementation, virtual batches, augmentation."""

import math
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from robustok.models.discriminator import (
    Discriminator,
    SpectralConv1d,
    VirtualBatchNorm,
    diff_augment,
    find_vectors,
    warmup_blur,
)
from robustok.models.frozen.dino import ViTSize, crop_or_resize, load_backbone, resize
from robustok.training.losses import LeCAM, hinge_discriminator_loss, hinge_generator_loss
from tests.operations import Operations

SIZE = ViTSize(width=32, depth=4, heads=2, taps=(0, 2, 3))


@pytest.fixture(scope="module")
def reference(golden):
    return golden("disc_io")


@pytest.fixture(scope="module")
def crops(images):
    return images[:, :, 16:240, 16:240]


@pytest.fixture
def discriminator(golden_path):
    network = Discriminator(load_backbone(golden_path / "disc_backbone.safetensors", SIZE))
    network.load_state_dict({k: v.float() for k, v in load_file(golden_path / "disc_heads.safetensors").items()})
    return network.eval()


def test_backbone_taps(golden_path, reference, crops, near):
    backbone = load_backbone(golden_path / "disc_backbone.safetensors", SIZE)
    near(torch.stack(backbone(crops))[..., ::7], reference["readouts_224_every7"], 1e-5)
    assert backbone.channels == [32] * 4


@torch.no_grad()
def test_logits(discriminator, reference, images, crops, near):
    near(discriminator(crops), reference["eval_224"], 1e-5)
    near(discriminator(resize(images)), reference["eval_256_resized"], 1e-5)
    near(discriminator(images[:, :, ::2, ::2][:, :, :112, :112]), reference["eval_112_upsampled"], 1e-5)
    for i in range(2):
        top, left = reference[f"crop{i}_top_left"].tolist()
        cropped = images[:, :, top : top + 224, left : left + 224]
        near(discriminator(cropped), reference[f"eval_256_crop{i}"], 1e-5)


@torch.no_grad()
def test_virtual_batches(discriminator, reference, crops, near):
    batch = torch.stack([crops[k % 2].roll((7 * k, 13 * k), (1, 2)) for k in range(10)])
    near(discriminator(batch), reference["eval_224_batch"], 1e-5)


def test_training_mode(discriminator, reference, crops, near):
    """Power iteration runs once a forward; the gradients of input and heads agree."""
    crops = crops.clone().requires_grad_()
    discriminator.train()
    logits = discriminator(crops)
    near(logits, reference["train_224_first"], 1e-5)
    (-logits.mean()).backward()
    near(crops.grad[:, :, 3::7, 5::7], reference["grad_gen_224_s7"], 1e-3)
    assert crops.grad.norm().item() == pytest.approx(reference["grad_gen_224_norm"].item(), rel=1e-3)
    gradients = {name: p.grad.norm().item() for name, p in discriminator.named_parameters()}
    for name, norm in zip(reference["grad_gen_heads_names"], reference["grad_gen_heads_norm"], strict=True):
        assert gradients[str(name)] == pytest.approx(norm.item(), rel=1e-3, abs=1e-7), name
    near(discriminator(crops), reference["train_224_second"], 1e-5)
    state = discriminator.state_dict()
    for name, value in reference.items():
        if name.startswith("after2_"):
            near(state[name.removeprefix("after2_")], value, 1e-5)


def test_gradient_through_the_resize(discriminator, reference, images, near):
    images = images.clone().requires_grad_()
    (-discriminator(resize(images)).mean()).backward()
    near(images.grad[:, :, 3::7, 5::7], reference["grad_gen_256_resized_s7"], 1e-3)


def test_crop_or_resize_takes_both_branches(images):
    """Larger images become a crop of themselves, the same for all, or the resized images; others are resized."""
    torch.manual_seed(0)
    views = [crop_or_resize(images) for _ in range(20)]
    resized = [torch.equal(view, resize(images)) for view in views]
    assert 3 <= sum(resized) <= 17
    crop = views[resized.index(False)]
    windows = images.unfold(2, 224, 1).unfold(3, 224, 1)  # (B, 3, 33, 33, 224, 224)
    corner = (windows[..., 0, 0] == crop[..., 0, 0][..., None, None]).all(1)  # where the first pixel matches
    places = (corner[0] & corner[1]).nonzero().tolist()
    assert any(torch.equal(windows[:, :, top, left], crop) for top, left in places)
    assert crop_or_resize(images[:, :, :224, :]).shape == (2, 3, 224, 224)


@pytest.mark.parametrize("count", [1, 7, 9, 13, 16, 17, 61])
def test_virtual_batches_need_not_split_evenly(count):
    """ceil(B / 8) groups whose sizes differ by at most one, each normalised by its own statistics, together."""
    norm = VirtualBatchNorm(3)
    x = torch.randn(count, 3, 20)
    with Operations() as done:
        found = norm(x)
    assert done.count["native_batch_norm"] <= 2
    groups = math.ceil(count / 8)
    start = 0
    for i in range(groups):
        size = count // groups + (i < count % groups)
        group = x[start : start + size].double()
        mean = group.mean((0, 2), keepdim=True)
        scale = (group.var((0, 2), keepdim=True, correction=0) + 1e-6).sqrt()
        torch.testing.assert_close(found[start : start + size].double(), (group - mean) / scale, atol=1e-5, rtol=0)
        start += size


def test_gradients_of_virtual_batches():
    """As of a loop over the groups, in float64."""
    norm = VirtualBatchNorm(3).double()
    x, factor = torch.randn(13, 3, 5, dtype=torch.float64), torch.randn(13, 3, 5, dtype=torch.float64)
    found = []
    for forward in (norm, lambda x: torch.cat([norm(x[:7]), norm(x[7:])])):
        learning = x.clone().requires_grad_()
        norm.zero_grad()
        (forward(learning) * factor).sum().backward()
        found.append([learning.grad, norm.weight.grad.clone(), norm.bias.grad.clone()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_of_shifted_images():
    """An image's gradient is shifted back, and nothing is sorted for it."""
    images = torch.randn(9, 3, 16, 24, requires_grad=True)
    factor, draws = torch.randn(9, 3, 16, 24), torch.rand(7, 9)
    draws[:3] = torch.tensor([0.5, 0.5, 0.5])[:, None]  # no change of colour
    with Operations() as done:
        moved = diff_augment(images, draws, cutout=0.0)
        (moved * factor).sum().backward()
    assert not {"index", "index_put_", "_index_put_impl_"} & set(done.count)
    for image, out, grad, weight, shift in zip(images, moved, images.grad, factor, draws[3:5].T, strict=True):
        down, right = (int(draw * (2 * reach + 1)) - reach for draw, reach in zip(shift, (2, 3), strict=True))
        padded, back = nn.functional.pad(image, (3, 3, 2, 2)), nn.functional.pad(weight, (3, 3, 2, 2))
        torch.testing.assert_close(out, padded[:, 2 + down : 18 + down, 3 + right : 27 + right])
        torch.testing.assert_close(grad, back[:, 2 - down : 18 - down, 3 - right : 27 - right])


class Taps(nn.Module):
    """A backbone of another kind: taps of different widths and lengths."""

    channels = (4, 6)

    def forward(self, images):
        return [images.flatten(2)[:, :1, :32].expand(-1, 4, -1), images.flatten(2)[:, :1, :10].expand(-1, 6, -1)]


def test_any_backbone_and_its_weights_stay_outside():
    backbone = Taps()
    backbone.weight = nn.Parameter(torch.ones(1))
    network = Discriminator(backbone, kernel_size=5, norm="none")
    assert network(torch.randn(3, 3, 8, 8)).shape == (3, 42)
    assert all(name.startswith("heads.") for name in network.state_dict())
    assert all(p is not backbone.weight for p in network.parameters())
    backbone.eval()
    network.train()
    assert not backbone.training


def test_spectral_norm_is_the_largest_singular_value():
    network = Discriminator(Taps(), norm="none").train()
    for _ in range(200):
        network(torch.randn(2, 3, 8, 8))
    convolution = network.heads[1][1].fn[0]
    weight = convolution._weight().detach().flatten(1)
    assert torch.linalg.matrix_norm(weight.double(), 2).item() == pytest.approx(1, rel=1e-3)


def test_power_iteration_of_all_layers_is_that_of_each():
    """To the bit, in two products a layer, four operations for each size of vectors, and one copy."""
    layers = [SpectralConv1d(width, 24, size) for width in (24, 40) for size in (1, 9) for _ in range(3)]
    expected = []
    for layer in layers:
        matrix = layer.weight_orig.detach().flatten(1)
        v = F.normalize(matrix.T @ layer.weight_u, dim=0, eps=1e-12)
        expected.append((F.normalize(matrix @ v, dim=0, eps=1e-12), v))
    with Operations() as done:
        find_vectors(layers, iterate=True)
    assert done.count["mv"] == 2 * len(layers) and done.count.total() == 2 * len(layers) + 4 * (1 + 4) + 1
    for layer, (u, v) in zip(layers, expected, strict=True):
        for found in (layer.vectors, (layer.weight_u, layer.weight_v)):
            assert torch.equal(found[0], u) and torch.equal(found[1], v)
    find_vectors(layers, iterate=False)
    assert all(torch.equal(layer.vectors[0], u) for layer, (u, _) in zip(layers, expected, strict=True))
    assert layers[0].vectors[0].data_ptr() != layers[0].weight_u.data_ptr()


def test_a_copy_has_vectors_of_its_own():
    """And goes on from another's: what it finds is what that one finds."""
    network, other, images = Discriminator(Taps()), Discriminator(Taps()), torch.randn(2, 3, 8, 8)
    network(images)
    copied, before = deepcopy(network), deepcopy(network.state_dict())
    other.load_state_dict(before)
    assert torch.equal(copied(images), other(images))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())


def test_wrong_arguments():
    with pytest.raises(ValueError, match="kernel_size must be odd, found 4"):
        Discriminator(Taps(), kernel_size=4)
    with pytest.raises(ValueError, match=r"norm must be .* found 'layer'"):
        Discriminator(Taps(), norm="layer")


def test_blur(golden, images, near):
    reference = golden("gan_losses")
    for strength in ("1.0", "0.5", "0.1"):
        near(warmup_blur(images, float(strength))[:, :, 7::13, 12::13], reference[f"blur_{strength}_s13"], 1e-5)
    assert warmup_blur(images, 0.0) is images


def test_diff_augment_moves_and_cuts():
    """On a constant image only the cutout and the uncovered border become 0: exact areas, and independent draws."""
    torch.manual_seed(0)
    images = torch.ones(400, 3, 40, 40)
    images[:, 1], images[:, 2] = 0.5, -0.5
    out = diff_augment(images)
    zero = (out == 0).all(1)
    assert zero.flatten(1).sum(1).unique().numel() > 50
    no_shift = diff_augment(images, translation=0.0)
    covered = (no_shift == 0).all(1)
    assert covered.any(2).sum(1).max() == covered.any(1).sum(1).max() == 8  # 0.2 of 40
    assert 0 < covered.any(2).sum(1).min() <= 4  # centres may lie on the border
    no_cut = (diff_augment(images, cutout=0.0) == 0).all(1)
    borders = torch.stack([no_cut[:, :, 20].sum(1), no_cut[:, 20].sum(1)])
    assert borders.max() == 5 and borders.min() == 0  # shifts up to an eighth of 40
    assert borders.float().mean().item() == pytest.approx(30 / 11, abs=0.3)  # uniform over -5 .. 5


def test_diff_augment_colour():
    """Without shift and cutout each image is an affine map of itself with contrast in [0.5, 1.5]; gradients flow."""
    torch.manual_seed(0)
    grey = torch.randn(300, 1, 16, 16).expand(-1, 3, -1, -1).clone().requires_grad_()  # saturation does nothing to grey
    out = diff_augment(grey, translation=0.0, cutout=0.0)
    contrast = out.flatten(1).std(1) / grey.flatten(1).std(1)
    brightness = out.flatten(1).mean(1) - grey.flatten(1).mean(1)
    assert contrast.min() >= 0.5 and contrast.max() <= 1.5 and contrast.mean().item() == pytest.approx(1, abs=0.06)
    assert brightness.abs().max() <= 0.5 + 1e-5 and brightness.std().item() == pytest.approx(12**-0.5, abs=0.03)
    out.sum().backward()
    assert grey.grad.abs().sum() > 0


def test_losses_through_the_discriminator(discriminator, golden, images):
    """The recorded adversarial term and two discriminator steps on stand-in reconstructions, in training mode."""
    reference = golden("gan_losses")
    base = 0.7 * images.roll(1, 0) + 0.3 * images
    decoded = torch.einsum("dc,bchw->bdhw", reference["last_layer"], base)
    discriminator.train()
    with torch.no_grad():
        adversarial = hinge_generator_loss(discriminator(resize(decoded)))
        assert adversarial.item() == pytest.approx(reference["gen_adv"].item(), rel=1e-4)
        lecam = LeCAM(torch.device("cpu"))
        for step in range(2):
            fake, real = discriminator(resize(decoded)), discriminator(resize(images))
            regular = reference["lecam_weight"] * lecam(real, fake)
            total = reference["disc_weight"] * (hinge_discriminator_loss(real, fake) + regular)
            assert total.item() == pytest.approx(reference["disc_total"][step].item(), rel=1e-4)
            assert lecam.state.tolist() == pytest.approx(reference["disc_lecam_ema"][step].tolist(), rel=1e-3)
