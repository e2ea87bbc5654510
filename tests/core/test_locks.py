"""Locks between processes."""

import multiprocessing
import os
import signal
import time

from robustok.core.locks import claim, hold, holder

fork = multiprocessing.get_context("fork")


def _claims(path, connection):
    connection.send(claim(path) is not None)


def _asks(path) -> bool:
    """Whether another process gets the lock."""
    here, there = fork.Pipe()
    process = fork.Process(target=_claims, args=(path, there))
    process.start()
    process.join()
    return here.recv()


def test_a_claim_is_refused_to_others_until_it_ends(tmp_path):
    path = tmp_path / "claims" / "lock"
    held = claim(path)
    assert held is not None and not _asks(path)
    assert holder(path).startswith(f"process {os.getpid()} on ")  # an asker leaves the name alone
    held.close()
    assert _asks(path)


def _holds(path, connection):
    with hold(path):
        connection.send(None)
        time.sleep(60)


def test_a_killed_process_gives_its_lock_back(tmp_path):
    here, there = fork.Pipe()
    process = fork.Process(target=_holds, args=(tmp_path / "lock", there))
    process.start()
    here.recv()
    assert claim(tmp_path / "lock") is None
    assert holder(tmp_path / "lock").startswith(f"process {process.pid} on ")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with hold(tmp_path / "lock"):
        assert not _asks(tmp_path / "lock")
    assert _asks(tmp_path / "lock")


def _adds_one(path, times):
    for _ in range(times):
        with hold(path / "lock"):
            count = int((path / "count").read_text())
            time.sleep(0.001)  # long enough for another process to come between
            (path / "count").write_text(str(count + 1))


def test_who_holds_a_lock_is_alone(tmp_path):
    (tmp_path / "count").write_text("0")
    processes = [fork.Process(target=_adds_one, args=(tmp_path, 20)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "count").read_text() == "60"


def test_a_lock_that_names_nobody(tmp_path):
    (tmp_path / "lock").touch()
    assert holder(tmp_path / "lock") == "another process"
