"""Inception features, stage by stage: resize, taps, logits, spatial, against recorded outputs of public code."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._C import _DisableTorchDispatch
from torch.nn import functional as F

from robustok.core.errors import UserError
from robustok.evaluation import InceptionFeatures
from robustok.evaluation.features import inception as inception_features
from robustok.evaluation.features.inception import normalize, tf1_resize
from robustok.models.frozen.inception import Mixed, load_inception
from robustok.ops import convolution
from tests.operations import Operations

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
    found = torch.full((len(images), 299, 299, 8), torch.nan, dtype=torch.float16, device=kernel_device)
    inception_input(images, found.permute(0, 3, 1, 2))
    expected = normalize(tf1_resize(images.float())).permute(0, 2, 3, 1)
    assert torch.allclose(found[..., :3].float(), expected, rtol=0, atol=2**-11)  # half a unit of float16 below 1
    assert not found[..., 3:].any()


def test_fast_mode_moves_features_by_rounding_only(peers, inception, inception_path, device):
    images = recording(peers, "64x64")[1]
    fast = InceptionFeatures(inception_path, "fast", device=device)
    for found, exact in zip(fast(images), inception(images), strict=True):
        assert_close(found.cpu(), exact.numpy(), {"cpu": 2e-5, "cuda": 1e-2}[device])  # a GPU stores float16
    assert (inception.protocol, fast.protocol) == (
        "inception-v3-tf2015/tf1-bilinear-299/exact-float32",
        f"inception-v3-tf2015/tf1-bilinear-299/fast-{'float32' if device == 'cpu' else 'float16'}",
    )


@torch.no_grad()
def blocks_and_convolutions(network, images) -> tuple[dict, int]:
    """What each block of a network gives, and how many convolutions the network takes."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, Mixed):
            module.register_forward_hook(lambda *call, name=name: found.update({name: call[-1]}))
    with Operations() as done:
        network(images)
    return found, done.count["convolution"]


def test_merged_convolutions_are_fewer_and_the_same_function(peers, inception_path):
    images = normalize(tf1_resize(recording(peers, "64x64")[1][:1].double()))
    plain, merged = (load_inception(inception_path).double().fold() for _ in range(2))
    (expected, before), (found, after) = (blocks_and_convolutions(n, images) for n in (plain, merged.merge()))
    assert (before, after) == (94, 67)
    assert len(found) == 11 and found.keys() == expected.keys()
    for name, block in found.items():
        assert block.dtype == torch.float64 and block.std() > 0
        assert_close(block, expected[name].numpy(), 1e-12)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Networks in float16 compute as on a GPU, with the definitions of its kernels; counts their calls."""
    pytest.importorskip("triton")
    from robustok.kernels import inception_input, pooling

    calls = Counter()

    def kernel(place, name, definition):
        def call(*args):
            calls[name] += 1
            assert args[0].dtype == torch.uint8 or args[0].is_contiguous(memory_format=torch.channels_last)
            with _DisableTorchDispatch():
                return definition(*args)

        monkeypatch.setattr(place, name, call)

    def convolve_relu(x, weight, bias, stride, padding, dilation, groups):
        assert x.shape[1] % 8 == 0  # as tensor cores take them
        return rounded(F.conv2d(x.float(), weight.float(), bias.float(), stride, padding, dilation, groups).relu())

    def split_relu(x, bias, widths, average_last):
        parts = [*(x.float() + (0 if average_last else bias[:, None, None])).split(widths, 1)]
        if average_last:
            parts[-1] = convolution.average(parts[-1])
            parts = [part + b[:, None, None] for part, b in zip(parts, bias.split(widths), strict=True)]
        return [rounded(part.relu()) for part in parts]

    def prepare(images, out):
        out[:, :3] = normalize(tf1_resize(images.float()))

    kernel(torch, "cudnn_convolution_relu", convolve_relu)
    kernel(pooling, "split_relu", split_relu)
    kernel(pooling, "max_pool", lambda x, stride, padding: rounded(F.max_pool2d(x.float(), 3, stride, padding)))
    kernel(inception_input, "inception_input", prepare)
    monkeypatch.setattr(convolution, "_in_half_on_a_gpu", lambda x: x.dtype == torch.float16)
    monkeypatch.setattr(inception_features, "capture", captured)
    return calls


def captured(unit, device) -> SimpleNamespace:
    """Replays to where it wrote first, as a graph does."""
    unit()
    place = unit.__self__.output

    def replay():
        unit()
        for field, found in zip(place, unit.__self__.output, strict=True):
            field.copy_(found)
        unit.__self__.output = place

    return SimpleNamespace(replay=replay)


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.half().contiguous(memory_format=torch.channels_last)


def test_a_gpu_runs_convolutions_pools_and_concatenations_alone(peers, inception, inception_path, as_on_a_gpu):
    """And what it gives is what exact mode gives, but for float16; of a smaller batch after a full one as well."""
    images = recording(peers, "64x64")[1][:3]
    fast = InceptionFeatures(inception_path, "fast", device="cpu", batch_size=2)
    fast._store_half()
    for found, exact in zip(fast(images), inception(images), strict=True):
        assert_close(found, exact.numpy(), 1e-2)
    assert as_on_a_gpu.pop("inception_input") == 2
    as_on_a_gpu.clear()
    with Operations() as done:
        fast._run()
    # Ten convolutions of 1 x 1 wait for what is split, averaged and rectified after them. All eleven blocks
    # concatenate, two of them twice inside, too. Means of four places, logits of one, and the copy of `spatial`.
    assert as_on_a_gpu == {"cudnn_convolution_relu": 57, "split_relu": 10, "max_pool": 5}
    assert done.count == {"convolution": 10, "cat": 15, "mean": 4, "mm": 1, "_to_copy": 1}


POOLS = [((2, 64, 9, 7), 2, 0), ((1, 48, 5, 5), 1, 1), ((1, 80, 8, 11), 2, 0)]


@pytest.mark.parametrize(("shape", "stride", "padding"), POOLS)
def test_the_pooling_kernel_is_torchs(shape, stride, padding, kernel_device):
    pytest.importorskip("triton")
    from robustok.kernels.pooling import max_pool

    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).half()
    x[0, 0, 1, 1] = torch.nan
    found = max_pool(x.to(kernel_device, memory_format=torch.channels_last), stride, padding)
    assert found.is_contiguous(memory_format=torch.channels_last)
    expected = F.max_pool2d(x.float(), 3, stride, padding)
    assert expected.isnan().any() and torch.equal(found.cpu().float().nan_to_num(7), expected.nan_to_num(7))


@pytest.mark.parametrize(
    ("widths", "average_last"), [((64, 48, 64, 32), True), ((192, 192), False), ((5, 3, 9), True), ((7,), False)]
)
def test_the_splitting_kernel_is_bias_average_and_relu(widths, average_last, kernel_device):
    pytest.importorskip("triton")
    from robustok.kernels.pooling import split_relu

    draw = torch.Generator().manual_seed(0)
    x, bias = torch.randn(2, sum(widths), 6, 5, generator=draw).half(), torch.randn(sum(widths), generator=draw).half()
    given = x.to(kernel_device, memory_format=torch.channels_last)
    parts = split_relu(given, bias.to(kernel_device), widths, average_last)
    expected = [*x.double().split(widths, 1)]
    if average_last:
        expected[-1] = convolution.average(expected[-1])
    for part, value, b in zip(parts, expected, bias.double().split(widths), strict=True):
        assert part.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(part.cpu().double(), (value + b[:, None, None]).relu(), rtol=2**-11, atol=1e-6)
    with pytest.raises(ValueError, match="at most 4 that sum to"):
        split_relu(given, bias, (*widths, 1), average_last)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_of_any_size_replay_one_graph(peers, inception, inception_path):
    images = recording(peers, "64x64")[1]
    fast = InceptionFeatures(inception_path, "fast", batch_size=4)
    torch.full((1 << 28,), torch.nan, device="cuda")  # what memory held before must not matter
    first = fast(images[:4].cuda()), fast.graph
    for count in (1, 3, 4):
        found = fast(images[:count])
        assert fast.graph is first[1]
        for field, whole, exact in zip(found, first[0], inception(images[:count]), strict=True):
            assert torch.equal(field, whole[:count])  # and it was not overwritten
            assert_close(field.cpu(), exact.numpy(), 1e-2)


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
