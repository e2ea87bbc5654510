"""Two processes agree; one process alone needs no group."""

import os
import socket
import subprocess
import sys

import torch

from robustok.core import distributed

SCRIPT = """
import torch
from robustok.core import distributed
distributed.start(torch.device("cpu"))
rank = distributed.rank()
assert distributed.world() == 2 and distributed.is_main() == (rank == 0)
assert distributed.total(torch.tensor(rank + 1.0)) == 3 and distributed.mean(torch.tensor(rank + 1.0)) == 1.5
cpu = torch.device("cpu")
assert distributed.any_process(rank == 1, cpu) and not distributed.any_process(False, cpu)

# InfoNCE-like: every sample meets every other one, so a process needs the samples of both
samples = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
def loss(x):
    return (x @ x.T).logsumexp(1).sum()
whole = samples.clone().requires_grad_()
loss(whole).backward()
mine = samples.chunk(2)[rank].clone().requires_grad_()
gathered = distributed.gather(mine)
assert torch.equal(gathered, samples)
loss(gathered).backward()
torch.testing.assert_close(mine.grad / 2, whole.grad.chunk(2)[rank])  # / 2: as gradients are averaged afterwards
distributed.barrier()
distributed.stop()
assert distributed.world() == 1
print("agreed")
"""


def test_two_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT], env=os.environ | group | {"RANK": rank}, stdout=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["agreed\n", "agreed\n"]


def test_one_process_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    distributed.start(torch.device("cpu"))
    value = torch.ones(2, requires_grad=True)
    assert (distributed.rank(), distributed.world(), distributed.is_main()) == (0, 1, True)
    assert distributed.gather(value) is value
    for reduced in (distributed.mean(value), distributed.total(value)):
        assert torch.equal(reduced, value) and not reduced.requires_grad
    assert distributed.any_process(True, torch.device("cpu"))
    distributed.barrier()
    distributed.stop()
