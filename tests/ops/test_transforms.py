"""torch.func and forward-mode differentiation see the straight-through operation that backward sees."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jvp, vmap

from robustok import ops

Z, CODEBOOK = (torch.randn(*shape, generator=torch.Generator().manual_seed(3)) for shape in ((2, 3, 4), (10, 4)))
DRAW = {"alpha": 0.5, "beta": 1.0, "delta": 3, "seed": 0}
OPERATIONS = {"vq_perturb": ops.vq_perturb, "vq_quantize": ops.vq_quantize}
SIMILARITIES = ["cosine", "l2"]

pytestmark = [
    pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS),
    pytest.mark.parametrize("similarity", SIMILARITIES),
]


def loss_of(operation, similarity):
    """A function of (z, codebook) that every differentiable output goes into."""

    def loss(z, codebook):
        out = operation(z, codebook, **DRAW, similarity=similarity)
        more = (out.z_q_clean.exp().sum() + 3 * out.vq_loss + 5 * out.commit_loss) if len(out) > 3 else 0
        return out.z_q.square().sum() + more

    return loss


def backward(loss, z, codebook):
    z, codebook = z.clone().requires_grad_(), codebook.clone().requires_grad_()
    loss(z, codebook).backward()
    return z.grad, torch.zeros_like(codebook) if codebook.grad is None else codebook.grad


def test_grad_is_that_of_backward(operation, similarity):
    loss = loss_of(operation, similarity)
    for found, expected in zip(grad(loss, argnums=(0, 1))(Z, CODEBOOK), backward(loss, Z, CODEBOOK), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_forward_mode_is_that_of_backward(operation, similarity):
    loss = loss_of(operation, similarity)
    tangent = torch.randn(Z.shape, generator=torch.Generator().manual_seed(4))
    expected = (backward(loss, Z, CODEBOOK)[0] * tangent).sum()
    _, found = jvp(lambda z: loss(z, CODEBOOK), (Z,), (tangent,))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    with forward_ad.dual_level():
        dual = loss(forward_ad.make_dual(Z, tangent), CODEBOOK)
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, expected, atol=1e-4, rtol=1e-5)


def test_vmap_is_a_loop(operation, similarity, recwarn):
    batch = torch.stack([Z, Z + 0.3, -Z])
    found = vmap(lambda z: tuple(operation(z, CODEBOOK, **DRAW, similarity=similarity)))(batch)
    loop = zip(*(operation(z, CODEBOOK, **DRAW, similarity=similarity) for z in batch), strict=True)
    assert all(torch.equal(a, torch.stack(b)) for a, b in zip(found, loop, strict=True))
    assert not [w for w in recwarn if "file us an issue" in str(w.message)]
    loss = loss_of(operation, similarity)
    found = vmap(grad(lambda z: loss(z, CODEBOOK)))(batch)
    torch.testing.assert_close(
        found, torch.stack([backward(loss, z, CODEBOOK)[0] for z in batch]), atol=1e-5, rtol=1e-5
    )


def test_second_derivatives(operation, similarity):
    def total(z):
        return operation(z, CODEBOOK, **DRAW, similarity=similarity).z_q.square().sum()

    if similarity == "l2":  # z_q = z + const: the second derivative of its square is 2
        found = hessian(total)(Z).reshape(Z.numel(), Z.numel())
        torch.testing.assert_close(found, 2 * torch.eye(Z.numel()))
    z = Z.clone().requires_grad_()
    (first,) = torch.autograd.grad(total(z), z, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"use torch\.func"):
        first.square().sum().backward()


def test_of_nearest_and_neighbors(operation, similarity):  # the operation does not matter
    batch = torch.stack([Z, -Z])
    found = vmap(lambda z: ops.vq_neighbors(z, CODEBOOK, 3, similarity=similarity))(batch)
    assert torch.equal(found, ops.vq_neighbors(batch, CODEBOOK, 3, similarity=similarity))
    found = vmap(lambda z: ops.vq_nearest(z, CODEBOOK, similarity=similarity))(batch)
    assert torch.equal(found, ops.vq_nearest(batch, CODEBOOK, similarity=similarity))
