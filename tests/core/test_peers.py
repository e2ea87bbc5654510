"""Where one process of several ends, all do, soon, and one message says which it was and why."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch.distributed as dist

from robustok.core import peers
from robustok.core.peers import GONE, how_it_ended

SCRIPT = Path(__file__).with_name("peers_scenarios.py")
HOST = re.escape(socket.gethostname())
REFUSED = [[2, 2, 2], "robustok: x: found 1, expected 2"]


@pytest.fixture(scope="module")
def ended() -> dict[str, tuple[list[int], str]]:
    """By scenario: the exit codes of its processes, and all that they printed."""
    result = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


@pytest.mark.parametrize("others", ["compute", "wait"])
@pytest.mark.parametrize("who", ["killed", "main killed"])
def test_a_killed_process_is_named_and_ends_the_others(ended, who, others):
    killed = 0 if who == "main killed" else 1
    codes, printed = ended[f"{who}, others {others}"]
    assert codes == [-signal.SIGKILL if rank == killed else 1 for rank in range(3)], printed
    expected = rf"robustok: process {killed} \(host {HOST}, pid \d+\) was killed by SIGKILL; .*"
    assert re.fullmatch(expected, printed)
    assert "The same command goes on from what was saved last" in printed


def test_a_process_that_gives_no_sign_of_life_is_named(ended):
    codes, printed = ended["hangs"]
    assert codes == [1, -signal.SIGKILL, 1]
    assert re.fullmatch(
        rf"robustok: process 1 \(host {HOST}, pid \d+\) gave no sign of life for 8 seconds: .*", printed
    )


@pytest.mark.parametrize("who", ["main refuses", "one refuses", "all refuse"])
def test_an_error_is_said_once(ended, who):
    assert ended[who] == REFUSED


def test_the_main_process_of_an_interrupted_run_closes_what_it_has_open(ended):
    assert ended["all are interrupted"] == [[130, 130, 130], "closed\nstopped at step 3"]


def test_who_is_interrupted_once_more_ends_all_at_once(ended):
    assert ended["one is interrupted twice"] == [[130, 130], "stopped at step 3"]


def test_a_bug_is_shown_with_its_traceback_and_no_other(ended):
    codes, printed = ended["has a bug"]
    assert codes == [1, 1]
    assert printed.startswith("Traceback") and printed.rstrip().endswith("KeyError: 'no such key'")
    assert printed.count("Traceback") == 1


def test_two_threads_of_a_process_that_see_the_same_say_it_once(monkeypatch, capsys):
    """The watch, and the main thread whose connection to the other process breaks at that moment."""
    monkeypatch.setattr(peers.Peers, "_exit", lambda self, code: sys.exit(code))  # of the thread
    store = dist.HashStore()
    here = peers.Peers(lambda: store, 0, 1)

    def end() -> None:
        with pytest.raises(SystemExit):
            here._end("process 1 was killed")

    other = threading.Thread(target=end)
    other.start()
    other.join()
    end()
    here._leaving.set()
    assert capsys.readouterr().err.count("robustok: ") == 1


def test_work_of_one_process_alone_is_waited_for(ended):
    assert ended["works alone"] == [[0, 0, 0], ""]


def test_how_a_process_ended_is_seen_until_it_is_waited_for(monkeypatch):
    assert how_it_ended(os.getpid()) is None
    for end, said in ((lambda: os._exit(3), "ended with exit code 3"), (be_stopped, "was killed by SIGTERM")):
        child = os.fork()
        if child == 0:
            end()
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert how_it_ended(child) == said
        os.waitpid(child, 0)
        assert how_it_ended(child) == GONE
    monkeypatch.setattr(peers, "Path", lambda path: Path("/nowhere"))  # a system without /proc
    assert how_it_ended(os.getpid()) is None


def be_stopped() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(70)
