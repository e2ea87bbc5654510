"""Two processes agree; one process alone needs no group."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from robustok.core import distributed, meeting
from robustok.core.errors import RunError

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


ENDING = """
import atexit, sys, threading, time
import torch
from robustok.core import distributed
from robustok.core.cli import run_verb

class Kept:  # with the group's threads, until Python is taken down
    def __init__(self, module):
        self.module = module
    def __del__(self):
        print("taken down")

def main(argv):
    global kept
    distributed.start(torch.device("cpu"))
    kept = Kept(torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2)))
    kept.module(torch.ones(1, 2)).sum().backward()
    atexit.register(print, "at exit")
    threading.Thread(target=lambda: (time.sleep(0.5), print("thread"))).start()
    print("done")
    return 3

sys.exit(run_verb(main, []))
"""


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def run_two(script: str) -> list[tuple[str, int]]:
    """(what it printed, its exit code) of each of two processes."""
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], env=os.environ | group | {"RANK": rank}, stdout=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    return [(process.communicate(timeout=120)[0], process.returncode) for process in processes]


def test_two_processes():
    assert run_two(SCRIPT) == [("agreed\n", 0)] * 2


def test_a_process_of_a_group_ends_without_taking_python_down():
    """A thread of the group that gives back a tensor meanwhile would abort it; all else that ends a process is done."""
    assert run_two(ENDING) == [("done\nthread\nat exit\n", 3)] * 2


@pytest.mark.parametrize("rank", ["0", "1"])
def test_processes_that_do_not_meet_are_told_where(monkeypatch, rank):
    port = free_port()
    for name, value in {"WORLD_SIZE": "2", "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "PATIENCE", timedelta(seconds=1))
    with pytest.raises(RunError, match=rf"process {rank} of 2 did not meet the others at 127\.0\.0\.1:{port} "):
        distributed.start(torch.device("cpu"))


def test_words_of_former_processes_mislead_nobody():
    """torchrun keeps its store over restarts: the second process's last word is of one that is gone."""
    store = dist.HashStore()
    store.set("hello/1", "gone")
    with ThreadPoolExecutor() as pool:
        welcome = pool.submit(meeting._welcome, store, 3, timedelta(seconds=60))
        arrive = [pool.submit(meeting._arrive, store, rank, timedelta(seconds=60)) for rank in (2, 1)]
        assert len({done.result() for done in (welcome, *arrive)}) == 1


def test_who_has_not_come_is_named():
    store = dist.HashStore()
    with pytest.raises(RunError, match=r"processes 1, 2 of 3 have not come in 0:00:01"):
        meeting._welcome(store, 3, timedelta(seconds=1))


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
