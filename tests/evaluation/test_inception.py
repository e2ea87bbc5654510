"""Inception features, stage by stage: resize, taps, logits, spatial, against recorded outputs of public code."""

import json

import numpy as np
import pytest
import torch

from robustok.core.errors import UserError
from robustok.evaluation import InceptionFeatures
from robustok.evaluation.features.inception import normalize, tf1_resize
from robustok.models.frozen.inception import Mixed, load_inception

SIZES = ("64x64", "256x256", "299x299", "310x352")


def recording(peers, size) -> tuple[dict, torch.Tensor]:
    with np.load(peers / "inception" / f"inception_{size}.npz") as file:
        return (values := dict(file)), torch.from_numpy(values["images_uint8_nchw"])


def assert_close(found, expected, tolerance=1e-4):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("size", SIZES)
def test_resize_is_the_references_to_the_last_bit(peers, size):
    recorded, images = recording(peers, size)
    resized = tf1_resize(images.float())
    index = recorded["resize_row_col_index"]
    assert np.array_equal(resized[:, :, index][..., index], recorded["resize_tf1_bilinear_rows_cols"])
    np.testing.assert_allclose(resized.double().mean((2, 3)), recorded["resize_tf1_bilinear_mean_f64"], rtol=1e-12)
    spread = resized.double().std((2, 3), correction=0)
    np.testing.assert_allclose(spread, recorded["resize_tf1_bilinear_std_f64"], rtol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_every_feature_is_the_references(peers, inception, size):
    recorded, images = recording(peers, size)
    found = inception(images)
    for name, tap in (("features64", 64), ("features192", 192), ("features768", 768), ("features", 2048)):
        assert_close(getattr(found, name), recorded[f"torch_fidelity_f32_{tap}"])
    assert_close(found.features, recorded["torch_fidelity_f64_2048"])
    assert_close(found.logits, recorded["torch_fidelity_f32_logits_unbiased"])
    with np.load(peers / "inception" / "spatial_features_mixed6d.npz") as file:
        assert_close(found.spatial, file[size])


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 3, 310, 352), (1, 3, 299, 299), (1, 3, 1, 400)])
def test_the_kernel_gives_the_networks_input_in_one_pass(shape, kernel_device):
    pytest.importorskip("triton")
    from robustok.kernels.inception_input import inception_input

    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = images.to(kernel_device)
    found, expected = inception_input(images, 299), normalize(tf1_resize(images.float()))
    assert found.dtype == torch.float16 and found.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(found.float(), expected, rtol=0, atol=2**-11)  # half a unit of float16 below 1


def test_fast_mode_moves_features_by_rounding_only(peers, inception, inception_path, device):
    images = recording(peers, "64x64")[1]
    fast = InceptionFeatures(inception_path, "fast", device=device)
    for found, exact in zip(fast(images), inception(images), strict=True):
        assert_close(found.cpu(), exact.numpy(), {"cpu": 2e-5, "cuda": 1e-2}[device])  # a GPU stores float16
    assert (inception.protocol, fast.protocol) == (
        "inception-v3-tf2015/tf1-bilinear-299/exact-float32",
        f"inception-v3-tf2015/tf1-bilinear-299/fast-{'float32' if device == 'cpu' else 'float16'}",
    )


@torch.inference_mode()
def blocks_and_convolutions(network, images) -> tuple[dict, int]:
    """What each block of a network gives, and how many convolutions the network takes."""
    found, calls = {}, []
    for name, module in network.named_modules():
        if isinstance(module, Mixed):
            module.register_forward_hook(lambda *call, name=name: found.update({name: call[-1]}))
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda *_: calls.append(None))
    network(images)
    return found, len(calls)


def test_merged_convolutions_are_fewer_and_the_same_function(peers, inception_path):
    images = normalize(tf1_resize(recording(peers, "64x64")[1][:1].double()))
    plain, merged = (load_inception(inception_path).double().fold() for _ in range(2))
    (expected, before), (found, after) = (blocks_and_convolutions(n, images) for n in (plain, merged.merge()))
    assert (before, after) == (94, 67)
    assert len(found) == 11 and found.keys() == expected.keys()
    for name, block in found.items():
        assert block.dtype == torch.float64 and block.std() > 0
        assert_close(block, expected[name].numpy(), 1e-12)


def test_exact_mode_is_the_same_on_every_device(peers, inception, inception_path, device):
    images = recording(peers, "64x64")[1]
    found = InceptionFeatures(inception_path, "exact", device=device)(images)
    assert_close(found.features.cpu(), inception(images).features.numpy())


def test_features_do_not_depend_on_the_batch(peers, inception, inception_path):
    images = recording(peers, "64x64")[1]
    one_by_one = InceptionFeatures(inception_path, device="cpu", batch_size=1)(images)
    assert_close(one_by_one.features, inception(images).features.numpy(), 1e-5)


def test_the_wrappers_layout_has_the_same_features_and_no_logits(peers, inception, inception_path, tmp_path):
    names = json.loads((peers / "inception" / "weights_recipe_keys.json").read_text())
    weights = torch.load(inception_path)
    wrapped = {
        ours: weights[theirs]
        for ours, theirs in names["layout_pytorch_fid_wrapper_InceptionV3_blocks"].items()
        if theirs in weights
    }
    torch.save(wrapped, tmp_path / "wrapper.pth")
    images = recording(peers, "64x64")[1][:1]
    found = InceptionFeatures(tmp_path / "wrapper.pth", device="cpu")(images)
    assert found.logits is None
    assert torch.equal(found.features, inception(images).features)


def test_missing_weights_say_which_file_where_and_which_hash(tmp_path):
    with pytest.raises(
        UserError, match=r"none\.pth.*pt_inception-2015-12-05-6726825d\.pth \(SHA-256 begins 6726825d\)"
    ):
        InceptionFeatures(tmp_path / "none.pth")


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="FID Inception network"):
        load_inception(tmp_path / "other.pth")


def test_damaged_published_weights_are_refused(inception_path, tmp_path):
    path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    path.write_bytes(inception_path.read_bytes())
    with pytest.raises(UserError, match="SHA-256 begins"):
        InceptionFeatures(path, device="cpu")


@pytest.mark.parametrize("images", [torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, 3, dtype=torch.uint8)])
def test_other_images_than_uint8_nchw_are_refused(inception, images):
    with pytest.raises(TypeError, match="expected uint8"):
        inception(images)
