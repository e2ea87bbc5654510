"""Kernels are launched on the GPU of their tensors, whichever is current: by one function, and by nothing else."""

import ast
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from robustok.kernels.launch import launch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode

KERNELS = Path(__file__).parents[2] / "kernels"


class Kernel:
    """Keeps what it was launched with, and on which GPU."""

    def __init__(self, current: list[int]):
        self.current, self.launches = current, []

    def __getitem__(self, grid):
        return lambda **arguments: self.launches.append((grid, self.current[-1], [*arguments]))


@pytest.fixture
def kernel(monkeypatch) -> Kernel:
    """One where GPU 0 is current."""
    current = [0]

    @contextmanager
    def device(index):
        current.append(index if index >= 0 else current[-1])
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(fake_tensor, "init_gpu_context", lambda device: None)
    return Kernel(current)


def test_a_kernel_is_launched_on_the_gpu_of_its_tensors(kernel):
    with FakeTensorMode():
        x = torch.empty(3, device="cuda:1")
    launch(kernel, (4,), low=None, x=x, count=3, num_warps=2)
    assert kernel.launches == [((4,), 1, ["low", "x", "count", "num_warps"])]


def test_tensors_on_no_gpu_leave_the_current_one(kernel):
    launch(kernel, (4, 2), x=torch.empty(3))
    assert kernel.launches == [((4, 2), 0, ["x"])]


def test_nothing_else_launches_a_kernel():
    """`kernel[grid](...)` stands in one place."""
    found = [
        (path.name, ast.unparse(call.func))
        for path in sorted(KERNELS.glob("*.py"))
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Subscript)
    ]
    assert found == [("launch.py", "kernel[grid]")]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_on_the_second_gpu_while_the_first_is_current():
    from robustok.kernels.pooling import max_pool

    x = torch.randn(2, 8, 9, 9).half()
    found = max_pool(x.to("cuda:1", memory_format=torch.channels_last), 2, 0)
    assert torch.equal(found.cpu(), torch.nn.functional.max_pool2d(x, 3, 2, 0)) and torch.cuda.current_device() == 0
