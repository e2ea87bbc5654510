"""What needs a GPU: the answers of the CPU, sizes beyond 2**31, CUDA graphs, no waiting, memory, the sanitizer."""

import shutil
import subprocess
import sys

import pytest
import torch

from robustok import ops
from robustok.ops.vq.backends import registry

from .table import DTYPES, SHAPES, SIMILARITIES, make

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SETTINGS = {"alpha": 0.8, "beta": 1.0, "seed": 6}


@pytest.fixture(params=["torch", "triton", "cuda"])
def device_backend(request) -> str:
    reason = registry.reasons(torch.device("cuda"))[request.param]
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("neighbors", ["latent", "code"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_device_answers_as_the_cpu(device_backend, shape, dtype, neighbors, similarity):
    z, codebook = make(shape, dtype)
    compared = {"similarity": similarity}
    given = {"delta": shape[-1], "neighbors": neighbors, **compared, **SETTINGS}
    expected = ops.vq_quantize(z, codebook, backend="reference", **given)
    found = ops.vq_quantize(z.cuda(), codebook.cuda(), backend=device_backend, **given)
    for name, value in expected._asdict().items():
        tolerance = {} if value.is_floating_point() else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(getattr(found, name).cpu(), value, **tolerance)
    near = ops.vq_neighbors(z.cuda(), codebook.cuda(), shape[-1], backend=device_backend, **compared)
    assert torch.equal(near.cpu(), ops.vq_neighbors(z, codebook, shape[-1], backend="reference", **compared))


def test_gradients_on_the_device(device_backend):
    results = []
    for device, name in (("cpu", "reference"), ("cuda", device_backend)):
        z, codebook = (x.to(device).requires_grad_() for x in make(SHAPES["prime"]))
        result = ops.vq_quantize(z, codebook, delta=50, backend=name, **SETTINGS)
        (result.z_q.square().sum() + result.vq_loss + result.commit_loss).backward()
        results.append((z.grad.cpu(), codebook.grad.cpu()))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)


def test_many_tokens_agree_with_the_compiled_host(device_backend):
    z, codebook = make((64, 256, 64, 4096, 1))
    given = {"delta": 100, **SETTINGS}
    found = ops.vq_perturb(z.cuda(), codebook.cuda(), backend=device_backend, **given)
    expected = ops.vq_perturb(z, codebook, **given)
    assert torch.equal(found.nearest.cpu(), expected.nearest) and torch.equal(found.indices.cpu(), expected.indices)


def test_more_than_two_to_the_31_elements(device_backend):
    """N * D and N * K beyond 2**31: the last tokens are compared with the reference."""
    L, D, K = 256, 64, 4096
    z = torch.randn(2**31 // (L * D) + 8, L, D, device="cuda", dtype=torch.bfloat16)
    codebook = torch.randn(K, D, device="cuda")
    result = ops.vq_perturb(z, codebook, delta=100, num_images=4, backend=device_backend, **SETTINGS)
    expected = ops.vq_nearest(z[-1].cpu(), codebook.cpu(), backend="reference")
    assert torch.equal(result.nearest[-1].cpu(), expected)


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_cuda_graph_and_no_waiting(name):
    if registry.reasons(torch.device("cuda"))[name]:
        pytest.skip(registry.reasons(torch.device("cuda"))[name])
    z, codebook = (x.cuda() for x in make((4, 64, 64, 1024, 1)))
    numbers = {"alpha": torch.tensor(1.0).cuda(), "delta": torch.tensor(50).cuda(), "seed": torch.tensor(1).cuda()}

    def step():
        return ops.vq_quantize(z, codebook, beta=1.0, backend=name, **numbers)

    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    numbers["seed"].fill_(2)
    numbers["delta"].fill_(20)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured[:3], step()[:3], strict=True))


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_cuda_graph_of_plain_numbers(name):
    if registry.reasons(torch.device("cuda"))[name]:
        pytest.skip(registry.reasons(torch.device("cuda"))[name])
    z, codebook = (x.cuda() for x in make((4, 64, 64, 1024, 1)))
    expected = ops.vq_quantize(z, codebook, delta=50, backend=name, **SETTINGS)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.vq_quantize(z, codebook, delta=50, backend=name, **SETTINGS)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured[:3], expected[:3], strict=True))


def test_memory_beyond_the_outputs(device_backend):
    z, codebook = (x.cuda() for x in make((1024, 256, 64, 4096, 1)))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = ops.vq_quantize(z, codebook, delta=100, backend=device_backend, **SETTINGS)
    extra = torch.cuda.max_memory_allocated() - before - sum(value.nbytes for value in result)
    assert extra <= 64 << 20


SANITIZED = """
import torch
from robustok import ops
for K, D, N in ((7, 3, 5), (1000, 33, 37), (4096, 64, 100), (1, 12, 3)):
    z, codebook = torch.randn(1, N, D).cuda(), torch.randn(K, D).cuda()
    ops.vq_perturb(z, codebook, alpha=1.0, beta=1.0, delta=min(K, 50), seed=0, backend="cuda")
torch.cuda.synchronize()
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_compute_sanitizer(tool):
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None or registry.reasons(torch.device("cuda"))["cuda"]:
        pytest.skip("needs compute-sanitizer and the CUDA extension")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "1", "--kernel-regex", "kns=robustok"]
    done = subprocess.run([*command, sys.executable, "-c", SANITIZED], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
