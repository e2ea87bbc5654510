"""The operators under torch.library's own checks, torch.compile, torch.export, autocast and checkpointing."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import robustok.ops.vq.nearest as nearest
import robustok.ops.vq.perturb as perturb
import robustok.ops.vq.quantize as quantize
from robustok import ops

from .table import make

SHAPE = (2, 9, 5, 30, 10)
DRAW = (torch.tensor(0.5, dtype=torch.float64), torch.tensor(10), torch.tensor(3), torch.arange(2), 2)


@pytest.mark.parametrize("neighbors", ["latent", "code"])
def test_opcheck(name, neighbors):
    z, codebook = (x.requires_grad_() for x in make(SHAPE))
    torch.library.opcheck(perturb._perturb, (z, codebook, *DRAW, neighbors, "cosine", name))
    torch.library.opcheck(quantize._quantize, (z, codebook, *DRAW, neighbors, "cosine", name))


def test_opcheck_of_operators_without_gradient(name):
    z, codebook = make(SHAPE)
    torch.library.opcheck(nearest._nearest, (z, codebook, "cosine", name))
    torch.library.opcheck(nearest._neighbors, (z, codebook, 7, "cosine", name))
    torch.library.opcheck(perturb._perturb_backward, (z, z.clone(), "cosine", name))
    clean = torch.zeros(2, 9, dtype=torch.int64)
    loss = torch.tensor(0.5)
    torch.library.opcheck(quantize._quantize_backward, (z, codebook, clean, [z.clone()], loss, None, "cosine", name))


def step(z, codebook, alpha, delta, seed):
    result = ops.vq_quantize(z, codebook, alpha=alpha, beta=0.5, delta=delta, seed=seed)
    return result.z_q.square().sum() + result.vq_loss, result.indices


def test_compile_has_one_graph_for_the_whole_schedule():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, fullgraph=True, backend=counter)
    for alpha, delta in ((1.0, 10), (0.9, 9), (0.75, 7), (0.5, 5)):
        gradients, results = [], []
        for function in (compiled, step):
            z, codebook = (x.requires_grad_() for x in make(SHAPE))
            numbers = torch.tensor(alpha), torch.tensor(delta), torch.tensor(delta + 1)
            loss, indices = function(z, codebook, *numbers)
            loss.backward()
            gradients.append((z.grad, codebook.grad))
            results.append(indices)
        assert torch.equal(*results)
        for ours, eager in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, eager)
    assert counter.frame_count == 1


def test_compile_takes_plain_numbers_too():
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    z, codebook = make(SHAPE)
    assert torch.equal(compiled(z, codebook, 0.5, 10, 3)[1], step(z, codebook, 0.5, 10, 3)[1])


def test_export():
    class Quantizer(torch.nn.Module):
        def __init__(self, codebook):
            super().__init__()
            self.codebook = torch.nn.Parameter(codebook)

        def forward(self, z):
            return ops.vq_perturb(z, self.codebook, alpha=0.5, beta=1.0, delta=10, seed=3).z_q

    z, codebook = make(SHAPE)
    module = Quantizer(codebook)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(module, (z,), dynamic_shapes={"z": {0: batch}}).module()
    assert torch.equal(exported(z), module(z))
    assert torch.equal(exported(z.repeat(3, 1, 1)), module(z.repeat(3, 1, 1)))


def test_autocast_does_not_touch_the_distances(name):
    z, codebook = make((2, 15, 16, 500, 10))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = ops.vq_quantize(z, codebook, alpha=1.0, beta=1.0, delta=10, seed=0, backend=name)
    plain = ops.vq_quantize(z, codebook, alpha=1.0, beta=1.0, delta=10, seed=0, backend=name)
    assert all(torch.equal(a, b) for a, b in zip(under, plain, strict=True))


def test_products_below_float32_leave_the_indices_alone():
    """The plain backend widens its bound when the user allows bfloat16 products."""
    z, codebook = make((2, 100, 16, 500, 10))
    plain = ops.vq_perturb(z, codebook, alpha=1.0, beta=1.0, delta=10, seed=0, backend="torch")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        reduced = ops.vq_perturb(z, codebook, alpha=1.0, beta=1.0, delta=10, seed=0, backend="torch")
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(plain.indices, reduced.indices) and torch.equal(plain.nearest, reduced.nearest)


def test_activation_checkpointing_recomputes_the_same(name):
    z, codebook = (x.requires_grad_() for x in make(SHAPE))
    arguments = {"alpha": 0.5, "beta": 1.0, "delta": 10, "seed": 3, "backend": name}
    gradients = []
    for function in (lambda f, x: checkpoint(f, x, use_reentrant=False), lambda f, x: f(x)):
        z.grad = None
        function(lambda x: ops.vq_perturb(x, codebook, **arguments).z_q.square().sum(), z).backward()
        gradients.append(z.grad)
    assert torch.equal(*gradients)
