"""Two hundred claimants on one folder of shards, some of them killed: no image is lost, and none is made twice."""

import multiprocessing
import os
import signal
import threading

import numpy as np
import pytest
import torch

from robustok.data.tokens import open_tokens
from robustok.generation import shards
from robustok.generation.shards import ShardedRun

PROCESSES, THREADS = 20, 10  # each thread claims for itself, as a process does
N, SHARD, CODES = 240, 4, 16
ABOUT = {"tokenizer": "none", "class_names": ["0", "1", "2"], "codebook_size": CODES}


class Counted:
    """A sampler whose tokens are digits of the image's number; it writes down which images it was asked for."""

    device = torch.device("cpu")

    def __init__(self, folder, victims):
        self.folder, self.victims = folder, victims

    def generate(self, classes, *, seed, sample_ids):
        ids = sample_ids.unique()  # the last batch is filled up
        if int(ids[0]) in self.victims and self._first_at(ids[0]):
            os.kill(os.getpid(), signal.SIGKILL)
        with open(self.folder / "made", "a") as file:  # a line is appended at once
            file.write("".join(f"{number}\n" for number in ids.tolist()))
        return torch.stack([sample_ids % CODES, sample_ids // CODES], 1)

    def _first_at(self, number) -> bool:
        try:
            os.close(os.open(self.folder / f"killed-{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def _claimant(folder, victims, gate):
    os.read(gate, 1)  # until everybody is there: it holds no lock that a killed process would keep
    classes = torch.arange(N) % 3
    settings = {"about": ABOUT, "seed": 0, "batch_size": 2, "shard_rows": SHARD}
    run = ShardedRun(folder / "out", classes, lambda: Counted(folder, victims), **settings)
    run.work(lambda done: None)
    if run.finish() is not None and not run.was_finished:  # who comes after the end gets the result, too
        (folder / "finished").open("a").write("once ")


def _process(folder, victims, gate, opener):
    os.close(opener)
    torch.set_num_threads(1)
    threads = [threading.Thread(target=_claimant, args=(folder, victims, gate)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("victims", [(), (0, 100, 236)], ids=["none killed", "three processes killed"])
def test_two_hundred_claimants(tmp_path, monkeypatch, victims):
    monkeypatch.setattr(shards, "POLL_SECONDS", 0.02)
    fork = multiprocessing.get_context("fork")
    gate, opener = os.pipe()
    processes = [fork.Process(target=_process, args=(tmp_path, victims, gate, opener)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    os.close(opener)
    for process in processes:
        process.join()
    os.close(gate)
    killed = [process.exitcode for process in processes if process.exitcode]
    assert killed == [-signal.SIGKILL] * len(victims)
    tokens = open_tokens(tmp_path / "out" / "tokens")
    numbers = np.arange(N)
    assert np.array_equal(tokens.ids, numbers)
    assert np.array_equal(tokens.tokens[:], np.stack([numbers % CODES, numbers // CODES], 1))
    assert not list((tmp_path / "out" / "tokens").glob(".*.tmp"))  # nothing half-written is left
    made = sorted(map(int, (tmp_path / "made").read_text().split()))
    if not victims:  # a process that is killed takes with it what its threads had begun, and others make that again
        assert made == list(range(N))
    assert (tmp_path / "finished").read_text() == "once "
