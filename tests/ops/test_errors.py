"""Bad arguments are refused before anything runs, and the message names the argument, what was found and expected."""

import numpy as np
import pytest
import torch

from robustok import ops
from robustok.ops.vq.backends import registry
from robustok.ops.vq.backends.triton_backend import MAX_CODES

Z, CODEBOOK = torch.randn(2, 3, 4), torch.randn(10, 4)
GOOD = {"alpha": 0.5, "beta": 0.5, "delta": 3, "seed": 0}

BAD_TENSORS = {
    "list": ([1.0], CODEBOOK, TypeError, "z: found list"),
    "integers": (Z.long(), CODEBOOK, TypeError, "z: found dtype torch.int64, expected float32"),
    "float64": (Z.double(), CODEBOOK, TypeError, "z: found dtype torch.float64"),
    "complex": (Z.to(torch.complex64), CODEBOOK, TypeError, "z: found dtype torch.complex64"),
    "width": (Z, torch.randn(10, 5), ValueError, r"z: found shape \(2, 3, 4\), expected \(..., 5\)"),
    "flat-codebook": (Z, torch.randn(4), ValueError, r"codebook: found shape \(4,\), expected \(K, D\)"),
    "no-codes": (Z, torch.randn(0, 4), ValueError, r"codebook: found shape \(0, 4\)"),
    "no-width": (Z[..., :0], torch.randn(10, 0), ValueError, r"codebook: found shape \(10, 0\)"),
    "device": (Z.to("meta"), CODEBOOK, ValueError, "codebook: found on cpu, expected on meta"),
}


@pytest.mark.parametrize(("z", "codebook", "kind", "message"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_tensors(z, codebook, kind, message):
    for call in (
        lambda: ops.vq_nearest(z, codebook),
        lambda: ops.vq_perturb(z, codebook, **GOOD),
        lambda: ops.vq_quantize(z, codebook, **GOOD),
    ):
        with pytest.raises(kind, match=message):
            call()


def test_images_have_three_dimensions():
    with pytest.raises(ValueError, match=r"z: found shape \(3, 4\), expected three dimensions"):
        ops.vq_perturb(Z[0], CODEBOOK, **GOOD)


BAD_NUMBERS = [
    ("alpha", 1.5, ValueError, "alpha: found 1.5, expected 0 to 1"),
    ("alpha", float("nan"), ValueError, "alpha: found nan"),
    ("alpha", "1", TypeError, "alpha: found str"),
    ("beta", -0.1, ValueError, "beta: found -0.1"),
    ("beta", None, TypeError, "beta: found NoneType"),
    ("delta", 0, ValueError, "delta: found 0, expected 1 to 10"),
    ("delta", 11, ValueError, "delta: found 11, expected 1 to 10"),
    ("delta", torch.tensor(11), ValueError, "delta: found 11, expected 1 to 10"),
    ("delta", 2.5, TypeError, "delta: found float"),
    ("delta", torch.tensor(2.0), TypeError, "delta: found a tensor"),
    ("seed", -1, ValueError, "seed: found -1"),
    ("seed", 2**64, ValueError, "seed: found"),
    ("seed", True, TypeError, "seed: found bool"),
    ("num_images", 3, ValueError, "num_images: found 3, expected 0 to 2"),
    ("num_images", 1.0, TypeError, "num_images: found float"),
    ("sample_ids", torch.arange(3), ValueError, r"sample_ids: found \(3,\)"),
    ("sample_ids", torch.zeros(2), TypeError, "sample_ids: found torch.float32"),
    ("neighbors", "both", ValueError, "neighbors: found 'both', expected 'latent' or 'code'"),
    ("similarity", "angle", ValueError, "similarity: found 'angle', expected None or one of l2, cosine, dot"),
    ("backend", "fast", ValueError, "backend: found 'fast', expected one of auto"),
]


@pytest.mark.parametrize(("argument", "value", "kind", "message"), BAD_NUMBERS)
def test_numbers(argument, value, kind, message):
    with pytest.raises(kind, match=message):
        ops.vq_quantize(Z, CODEBOOK, **{**GOOD, argument: value})


@pytest.mark.parametrize(("delta", "kind"), [(11, ValueError), (0, ValueError), (1.0, TypeError)])
def test_neighbors(delta, kind):
    with pytest.raises(kind, match="delta: found"):
        ops.vq_neighbors(Z, CODEBOOK, delta)


@pytest.mark.parametrize("name", registry.BACKENDS)
def test_a_backend_that_cannot_run_says_why(name):
    reason = registry.reasons(torch.device("cpu"))[name]
    if reason is None:
        assert ops.vq_nearest(Z, CODEBOOK, backend=name).shape == (2, 3)
    else:
        with pytest.raises(ValueError, match=f"backend: '{name}' cannot run here"):
            ops.vq_nearest(Z, CODEBOOK, backend=name)


def test_the_description_names_every_backend():
    text = ops.describe_backends(Z)
    assert all(f"{name}:" in text for name in registry.BACKENDS)
    assert text.splitlines()[0] == f"{registry.choose('auto', Z.device).name}: taken for cpu tensors"


def test_the_description_knows_the_shape():
    many = torch.empty(1, 4).expand(MAX_CODES + 1, 4)
    assert f"triton: a program holds the scores of all codes: found K = {len(many)}" in ops.describe_backends(Z, many)
    assert "triton: a program" not in ops.describe_backends(Z, CODEBOOK)


def test_without_perturbation_nothing_need_be_said():
    plain = ops.vq_quantize(Z, CODEBOOK)
    expected = ops.vq_quantize(Z, CODEBOOK, **{**GOOD, "alpha": 0.0})
    assert all(torch.equal(a, b) for a, b in zip(plain, expected, strict=True))
    for alpha in (0.5, torch.tensor(0.5)):
        with pytest.raises(TypeError, match="delta: found None, expected a number"):
            ops.vq_quantize(Z, CODEBOOK, alpha=alpha, seed=0)
        with pytest.raises(TypeError, match="seed: found None"):
            ops.vq_quantize(Z, CODEBOOK, alpha=alpha, delta=3)


def test_numbers_of_numpy_are_numbers():
    z, codebook = torch.randn(4, 3, 2), torch.randn(8, 2)
    plain = ops.vq_perturb(z, codebook, alpha=0.5, beta=0.5, delta=3, seed=7)
    numbers = {"alpha": np.float32(0.5), "beta": np.float64(0.5), "delta": np.int32(3), "seed": np.uint64(7)}
    assert torch.equal(ops.vq_perturb(z, codebook, **numbers).indices, plain.indices)
    assert torch.equal(ops.vq_quantize(z, codebook, **numbers, num_images=np.int64(2)).indices, plain.indices)
    assert torch.equal(ops.perturb(z, codebook, **numbers).indices, plain.indices)
    assert torch.equal(ops.vq_neighbors(z, codebook, np.uint8(2)), ops.vq_neighbors(z, codebook, 2))
    noise = ops.perturb(z, kind="gaussian", seed=np.int64(7), strength=np.float64(0.5)).z_q
    assert torch.equal(noise, ops.perturb(z, kind="gaussian", seed=7, strength=0.5).z_q)
    with pytest.raises(TypeError, match="delta: found float"):
        ops.vq_neighbors(z, codebook, np.float32(2))
