"""Adding a backend: one class that does what `VQBackend` says, and one entry in the registry."""

import pytest
import torch

from robustok import ops
from robustok.ops.vq import gradients, reference
from robustok.ops.vq.backends import registry
from robustok.ops.vq.types import CodebookShape

from .table import make

DRAW = {"alpha": 0.8, "beta": 1.0, "delta": 20, "seed": 6}


def recorded(function):
    """A method that runs the function and writes down that it did."""

    def method(self, *arguments):
        self.calls.append(function.__name__)
        return function(*arguments)

    return method


class ToyBackend:
    """Delegates to the reference and writes down which methods ran. It takes at most 100 codes."""

    name = "toy"
    devices = ("cpu",)
    nearest = recorded(reference.nearest)
    neighbors = recorded(reference.neighbors)
    perturb = recorded(reference.perturb)
    quantize = recorded(reference.quantize)
    perturb_backward = recorded(gradients.perturb_backward)
    quantize_backward = recorded(gradients.quantize_backward)

    def __init__(self):
        self.calls = []

    def missing(self, device: torch.device, shape: CodebookShape | None = None) -> str | None:
        return f"a toy takes 100 codes: found K = {shape.K}" if shape and shape.K > 100 else None


@pytest.fixture
def toy(monkeypatch) -> ToyBackend:
    backend = ToyBackend()
    monkeypatch.setitem(registry.BACKENDS, "toy", backend)
    return backend


def test_lookups_reach_it(toy):
    z, codebook = make((3, 11, 8, 64, 20))
    assert torch.equal(ops.vq_nearest(z, codebook, backend="toy"), ops.vq_nearest(z, codebook))
    assert torch.equal(ops.vq_neighbors(z, codebook, 5, backend="toy"), ops.vq_neighbors(z, codebook, 5))
    assert toy.calls == ["nearest", "neighbors"]


@pytest.mark.parametrize("operation", [ops.vq_perturb, ops.vq_quantize])
def test_training_reaches_it_forward_and_backward(toy, operation):
    found = {}
    for name in ("toy", "torch"):
        z, codebook = (x.requires_grad_() for x in make((3, 11, 8, 64, 20)))
        result = operation(z, codebook, backend=name, **DRAW)
        loss = result.z_q.square().sum()
        if operation is ops.vq_quantize:
            loss = loss + result.vq_loss + 0.25 * result.commit_loss
        loss.backward()
        found[name] = [*result, z.grad, torch.zeros(()) if codebook.grad is None else codebook.grad]
    for ours, theirs in zip(found["toy"], found["torch"], strict=True):
        torch.testing.assert_close(ours, theirs)
    kind = operation.__name__.removeprefix("vq_")
    assert toy.calls == [kind, f"{kind}_backward"]


def test_it_is_described_and_refuses_with_its_reason(toy):
    many = torch.randn(101, 4)
    assert "toy: can run where it is asked for by name" in ops.describe_backends("cpu")
    assert "toy: a toy takes 100 codes: found K = 101" in ops.describe_backends("cpu", many)
    with pytest.raises(ValueError, match="'toy' cannot run here: a toy takes 100 codes"):
        ops.vq_nearest(torch.randn(2, 4), many, backend="toy")
    assert not toy.calls


def test_auto_takes_it_where_it_stands_first(toy, monkeypatch):
    for name in list(registry.BACKENDS):
        if name != "toy":
            monkeypatch.delitem(registry.BACKENDS, name)
    z, codebook = make((1, 3, 4, 10, 2))
    ops.vq_nearest(z, codebook)
    assert toy.calls == ["nearest"] and ops.describe_backends(z) == "toy: taken for cpu tensors"
