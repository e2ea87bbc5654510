"""Straight-through outputs, losses, usage, and their gradients, against autograd of the formulas in float64."""

import pytest
import torch

from robustok import ops

from .table import SHAPES, SIMILARITIES, SMALL, make

ARGUMENTS = {"alpha": 0.8, "beta": 1.0, "seed": 6}


def compared(rows: torch.Tensor, similarity: str) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=-1, eps=1e-12) if similarity == "cosine" else rows


def formulas(z, codebook, result, similarity):
    """The outputs from their definition, with the indices found."""
    u, e = compared(z, similarity), compared(codebook, similarity)
    clean, code = e[result.nearest], e[result.indices]
    return {
        "z_q": u + (code - u).detach(),
        "z_q_clean": u + (clean - u).detach(),
        "vq_loss": (clean - u.detach()).square().mean(),
        "commit_loss": (clean.detach() - u).square().mean(),
    }


@pytest.mark.parametrize("shape", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_outputs_and_gradients(name, shape, similarity):
    z, codebook = (x.requires_grad_() for x in make(shape))
    result = ops.vq_quantize(z, codebook, delta=shape[-1], similarity=similarity, backend=name, **ARGUMENTS)
    z64, codebook64 = (x.detach().double().requires_grad_() for x in (z, codebook))
    expected = formulas(z64, codebook64, result, similarity)
    for key, value in expected.items():
        torch.testing.assert_close(getattr(result, key).double(), value, rtol=1e-5, atol=2e-6)
    for used in (("z_q",), ("z_q_clean", "vq_loss"), tuple(expected)):
        ours = gradients(result._asdict(), used, z, codebook)
        for found, exact in zip(ours, gradients(expected, used, z64, codebook64), strict=True):
            torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-6)


def gradients(outputs, used, *inputs):
    """Of a loss of the outputs used; zeros where they say nothing of an input."""
    loss = sum((outputs[key] ** 2).sum() for key in used)
    return torch.autograd.grad(loss, inputs, retain_graph=True, materialize_grads=True)


@pytest.mark.parametrize("similarity", ["l2", "dot"])
def test_without_normalisation_the_gradient_passes_unchanged(name, similarity):
    z, codebook = make((2, 9, 5, 30, 10))
    z.requires_grad_()
    grad = torch.randn(z.shape)
    result = ops.vq_perturb(z, codebook, delta=10, similarity=similarity, backend=name, **ARGUMENTS)
    result.z_q.backward(grad)
    assert torch.equal(z.grad, grad)


def test_perturb_and_quantize_agree(name):
    z, codebook = make((3, 20, 8, 50, 20))
    perturbed = ops.vq_perturb(z, codebook, delta=20, backend=name, **ARGUMENTS)
    quantized = ops.vq_quantize(z, codebook, delta=20, backend=name, **ARGUMENTS)
    assert all(torch.equal(getattr(quantized, key), value) for key, value in perturbed._asdict().items())
    assert torch.equal(quantized.usage, quantized.nearest.flatten().bincount(minlength=50))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes_of_outputs_and_gradients(name, dtype):
    z, codebook = (x.requires_grad_() for x in make((2, 9, 5, 30, 10), dtype, codebook_dtype=torch.float16))
    result = ops.vq_quantize(z, codebook, delta=10, backend=name, **ARGUMENTS)
    assert result.z_q.dtype == result.z_q_clean.dtype == dtype
    assert result.vq_loss.dtype == result.commit_loss.dtype == torch.float32
    expected = formulas(z.detach().double(), codebook.detach().double(), result, "cosine")
    torch.testing.assert_close(result.z_q.double(), expected["z_q"], rtol=0, atol=torch.finfo(dtype).eps)
    (result.z_q.float().sum() + result.vq_loss).backward()
    assert z.grad.dtype == dtype and codebook.grad.dtype == torch.float16


def test_empty_batch(name):
    z, codebook = (x.requires_grad_() for x in make(SHAPES["empty"]))
    result = ops.vq_quantize(z, codebook, delta=3, backend=name, **ARGUMENTS)
    (result.z_q.sum() + result.vq_loss + result.commit_loss).backward()
    assert result.z_q.shape == z.shape and result.vq_loss == 0 and result.usage.sum() == 0
    assert z.grad.shape == z.shape and (codebook.grad == 0).all()


def test_gradient_of_a_zero_row_is_finite(name):
    z, codebook = make((1, 3, 4, 10, 2))
    z[0, 1] = 0
    z.requires_grad_()
    ops.vq_perturb(z, codebook, delta=2, backend=name, **ARGUMENTS).z_q.sum().backward()
    assert z.grad.isfinite().all()


def test_gradients_do_not_depend_on_the_backend(name):
    """The training step on any backend follows the same path as on the reference."""
    gradients = []
    for backend in ("reference", name):
        z, codebook = (x.requires_grad_() for x in make((3, 11, 8, 64, 20)))
        result = ops.vq_quantize(z, codebook, delta=20, backend=backend, **ARGUMENTS)
        (result.z_q.square().sum() + result.vq_loss + 0.25 * result.commit_loss).backward()
        gradients.append((result.vq_loss, result.commit_loss, z.grad, codebook.grad))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
