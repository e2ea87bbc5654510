"""Frozen networks of the losses keep nothing for a gradient that nobody asks for."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from robustok.models.compiling import compiled_blocks
from robustok.models.frozen.classifier import Classifier
from robustok.models.frozen.dino import DINOBackbone, DINOTeacher, ViTSize
from robustok.models.frozen.lpips import LPIPS
from robustok.models.frozen.networks import from_classifier, placed
from robustok.models.vit import ViT
from tests.operations import Operations

NETWORKS = from_classifier(Classifier(10, 16))
PERCEPTUAL = {"LPIPS": LPIPS().requires_grad_(False), "classifier": NETWORKS.perceptual}
FEATURES = {
    "classifier teacher": NETWORKS.teacher,
    "classifier backbone": NETWORKS.backbone,
    "DINO teacher": DINOTeacher(ViT(grid=2, patch_size=8, width=16, depth=2, heads=2)),
    "DINO backbone": DINOBackbone(ViTSize(width=16, depth=2, heads=2, taps=(0, 1))),
}


def bytes_kept(call) -> int:
    """What autograd keeps from the call until its backward pass, each storage once, weights left out."""
    kept = {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = call()  # alive while its storages are counted
    del result
    return sum(kept.values())


def images(seed: int, size: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("name", PERCEPTUAL)
def test_a_distance_keeps_activations_of_the_side_that_learns_alone(name):
    network, x, target = PERCEPTUAL[name], images(0), images(1)
    learning = x.clone().requires_grad_()
    one, both = bytes_kept(lambda: network(learning, target)), bytes_kept(lambda: network(learning, learning * 0.9))
    assert 0.4 * both < one < 0.65 * both  # the features that are compared are kept of both sides
    assert bytes_kept(lambda: network(x, target)) == 0
    network(learning, target).sum().backward()
    assert learning.grad.abs().sum() > 0 and target.grad is None


@pytest.mark.parametrize("name", FEATURES)
def test_features_of_images_that_do_not_learn_keep_nothing(name):
    assert bytes_kept(lambda: FEATURES[name](images(0, 16))) == 0


@pytest.mark.parametrize("name", PERCEPTUAL | FEATURES)
def test_weights_are_in_bfloat16_before_autocast_asks(name):
    """The same to the bit as with weights that autocast copies at every call."""
    network = (PERCEPTUAL | FEATURES)[name]
    half = placed(copy.deepcopy(network), torch.device("cpu"), compile=False, bfloat16=True)
    size = 16 if name in FEATURES else 32
    given = [images(seed, size) for seed in range(1 if name in FEATURES else 2)]
    found, copies = [], []
    for frozen in (network, half):
        with torch.autocast("cpu", dtype=torch.bfloat16), Operations() as done:
            found.append(frozen(*given))
        copies.append(done.count["_to_copy"])
    torch.testing.assert_close(*found, rtol=0, atol=0)
    products = [layer for layer in half.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert copies[1] < copies[0] and all(layer.weight.dtype == torch.bfloat16 for layer in products)


@pytest.mark.parametrize("name", PERCEPTUAL)
def test_channels_last_and_compiled_give_the_same(name):
    """As on a GPU with --compile: weights in channels_last, and one graph without a break."""
    network, x, target = PERCEPTUAL[name], images(0), images(1)
    fast = copy.deepcopy(network).to(memory_format=torch.channels_last)
    assert compiled_blocks(fast) == [fast]
    fast.compile(backend="aot_eager", fullgraph=True)
    found = []
    for distance in (network, fast):
        learning = x.clone().requires_grad_()
        value = distance(learning, target)
        value.sum().backward()
        found.append((value.detach(), learning.grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-7)
    # rounding turns a few ReLUs the other way, which moves the gradient of the pixels that they see
    assert (found[0][1] - found[1][1]).abs().median() < 1e-5 * found[0][1].abs().max()
