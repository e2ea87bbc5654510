"""Memory beyond the outputs on the CPU, and a training run that takes the same path on every backend."""

import subprocess
import sys

import pytest
import torch

from robustok import ops

# B, L, D, K: the N x K matrix of the first would be 1 GB; wide rows have large float64 copies, narrow ones many tokens.
SIZES = {"published": (256, 256, 64, 4096), "wide": (128, 256, 768, 64), "narrow": (1 << 13, 256, 1, 2)}
# Prints the growth of the peak of resident memory that is not the outputs.
PROBE = """
import resource, sys, torch
from robustok import ops
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
B, L, D, K = map(int, sys.argv[2:])
z, codebook = torch.randn(B, L, D), torch.randn(K, D)
arguments = dict(alpha=1.0, beta=0.02, delta=min(K, 100), seed=0, backend=sys.argv[1])
ops.vq_quantize(z[:1], codebook, **arguments)
before = peak()
result = ops.vq_quantize(z, codebook, **arguments)
print(peak() - before - sum(value.nbytes for value in result))
"""


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", ["torch", "cpp"])
def test_memory_beyond_the_outputs(name, size):
    done = subprocess.run([sys.executable, "-c", PROBE, name, *map(str, size)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 64 << 20


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


@pytest.mark.parametrize("name", ["torch", "cpp"])
def test_training_takes_the_same_path(name):
    losses, reference = train(name), train("reference")
    assert losses == pytest.approx(reference, rel=1e-5)
    assert losses[-1] < losses[0]
