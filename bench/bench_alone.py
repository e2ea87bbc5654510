"""Each operation on a codebook by itself, on every backend that runs here, timed by pytest-benchmark.

The other files compare with peers in one run; this one compares commits: `pytest bench/bench_alone.py --benchmark
--benchmark-autosave` before a change, and with `--benchmark-compare` after it.
"""

import pytest
import torch

from robustok import ops
from robustok.ops.vq.backends import registry

from .bench_ops import BETA, DELTA, inputs

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
RUNS = [
    (name, device)
    for device in DEVICES
    for name, reason in registry.reasons(torch.device(device)).items()
    if reason is None and name != "reference"
]
SETTINGS = {"alpha": 1.0, "beta": BETA, "delta": DELTA, "seed": 0}


def forward_and_backward(z, codebook, **settings):
    result = ops.vq_quantize(z, codebook, **settings)
    (result.z_q.sum() + result.vq_loss + result.commit_loss).backward()


OPERATIONS = {
    "nearest": ops.vq_nearest,
    "neighbors": lambda z, codebook, backend: ops.vq_neighbors(z[:1], codebook, DELTA, backend=backend),
    "perturb": lambda z, codebook, backend: ops.vq_perturb(z, codebook, backend=backend, **SETTINGS),
    "quantize and backward": lambda z, codebook, backend: forward_and_backward(
        z.requires_grad_(), codebook.requires_grad_(), backend=backend, **SETTINGS
    ),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("name", "device"), RUNS)
def test_operation(benchmark, timed, name, device, operation):
    z, codebook = inputs((65_536 if device == "cuda" else 4096) if timed else 512, device)
    if not timed:
        z = z[:, :8]  # Triton's interpreter takes a tenth of a second a token

    def run():
        OPERATIONS[operation](z, codebook, backend=name)
        if device == "cuda":
            torch.cuda.synchronize()

    if timed:
        run()
    benchmark(run)
