"""Memory beyond the outputs on the CPU, and a training run that takes the same path on every backend."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robustok import ops

BACKENDS = ("torch", "cpp")
# B, L, D, K: the N x K matrix of the first would be 1 GB; wide rows have large float64 copies, narrow ones many tokens.
SIZES = {"published": (256, 256, 64, 4096), "wide": (128, 256, 768, 64), "narrow": (1 << 13, 256, 1, 2)}
# Prints, for each backend and size, the growth of the peak of resident memory that is not the outputs. In a process of
# its own, which begins its peak anew for each (getrusage's would begin at that of pytest) and returns all it frees.
PROBE = """
import json, re, sys, torch
from robustok import ops
torch.set_num_threads(1)

def resident(kind):
    return int(re.search(kind + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

def growth(backend, B, L, D, K):
    z, codebook = torch.randn(B, L, D), torch.randn(K, D)
    arguments = dict(alpha=1.0, beta=0.02, delta=min(K, 100), seed=0, backend=backend)
    ops.vq_quantize(z[:1], codebook, **arguments)
    open("/proc/self/clear_refs", "w").write("5")  # peak = present
    before = resident("VmRSS")
    result = ops.vq_quantize(z, codebook, **arguments)
    return resident("VmHWM") - before - sum(value.nbytes for value in result)

print(json.dumps([growth(*run) for run in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def growths() -> dict[tuple[str, str], int]:
    """Bytes by (backend, name of the size)."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs /proc/self/clear_refs, by which a peak of memory begins anew")
    runs = {(backend, name): (backend, *SIZES[name]) for backend in BACKENDS for name in SIZES}
    command = [sys.executable, "-c", PROBE, json.dumps(list(runs.values()))]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(runs, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", BACKENDS)
def test_memory_beyond_the_outputs(growths, name, size):
    assert growths[name, size] <= 64 << 20


def train(backend: str) -> list[float]:
    """Losses of 20 steps: an encoder and a codebook learn together under annealed perturbation."""
    torch.manual_seed(0)
    data = torch.randn(16, 24, 10)
    encoder, decoder = torch.nn.Linear(10, 6), torch.nn.Linear(6, 10)
    codebook = torch.nn.Parameter(torch.randn(40, 6))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters(), codebook], lr=1e-2)
    losses = []
    for step in range(20):
        draw = {"alpha": 1 - step / 40, "beta": 0.5, "delta": 20 - step // 2, "seed": step}
        result = ops.vq_quantize(encoder(data), codebook, backend=backend, **draw)
        loss = (decoder(result.z_q) - data).square().mean() + result.vq_loss + 0.25 * result.commit_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", BACKENDS)
def test_training_takes_the_same_path(name):
    losses, reference = train(name), train("reference")
    assert losses == pytest.approx(reference, rel=1e-5)
    assert losses[-1] < losses[0]
