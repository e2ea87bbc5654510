"""Run by test_peers.py: what becomes of processes of which one ends, is killed, hangs, or works alone for long.

A scenario is what each process does once all have met, the main one first, a method of `Part`. Its processes are forked
here, where torch is imported already. Prints {scenario: [exit codes, what was printed]} as JSON.
"""

import atexit
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer

import torch

from robustok.core import distributed, peers
from robustok.core.cli import run_verb
from robustok.core.errors import UserError

SCENARIOS = {
    "killed, others compute": (["compute", "be_killed", "compute"], 20.0),
    "killed, others wait": (["wait", "be_killed", "wait"], 20.0),
    "main killed, others compute": (["be_killed", "compute", "compute"], 20.0),
    "main killed, others wait": (["be_killed", "wait", "wait"], 20.0),
    "hangs": (["compute", "hang", "wait"], 8.0),
    "main refuses": (["refuse", "compute", "wait"], 20.0),
    "one refuses": (["wait", "compute", "refuse"], 20.0),
    "all refuse": (["refuse", "refuse", "refuse"], 20.0),
    "all are interrupted": (["close", "stop", "stop"], 20.0),
    "one is interrupted twice": (["wait", "stop_twice"], 20.0),
    "has a bug": (["compute", "have_a_bug"], 20.0),
    "works alone": (["work_alone", "wait", "wait"], 8.0),
}


class Part:
    def compute():
        distributed.mean(torch.ones(1))

    def wait():
        distributed.barrier()

    def be_killed():
        os.kill(os.getpid(), signal.SIGKILL)

    def hang():
        os.kill(os.getpid(), signal.SIGSTOP)

    def refuse():
        raise UserError("x: found 1, expected 2")

    def stop():
        raise KeyboardInterrupt("stopped at step 3")

    def stop_twice():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        Part.stop()

    def close():
        try:
            Part.stop()
        finally:
            time.sleep(4 * peers.BEAT)  # as trackers, which the main process alone has
            print("closed", flush=True)

    def have_a_bug():
        return {}["no such key"]

    def work_alone():
        time.sleep(1.5 * peers.SILENCE)
        distributed.barrier()


def take_part(rank: int, world: int, part: str, port: int, output: Path) -> None:
    """In a forked process: does its part as a verb does, and ends."""
    atexit._clear()  # what its parent does at its own end
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def main(argv: list[str]) -> int:
        distributed.start(torch.device("cpu"))
        distributed.barrier()
        getattr(Part, part)()
        return 0

    code = 70  # for what run_verb should not let through: a forked process must not go on as its parent
    try:
        code = run_verb(main, [])
    finally:
        os._exit(code)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def fork(parts: list[str], silence: float, output: Path) -> list[int]:
    port, pids = free_port(), []
    for rank, part in enumerate(parts):
        pid = os.fork()
        if pid == 0:
            peers.SILENCE = silence
            take_part(rank, len(parts), part, port, output)
        pids.append(pid)
    return pids


def exit_codes(pids: list[int], parts: list[str]) -> list[int]:
    """A process that was killed is asked for last: until then others can see how it ended; one that hangs is killed."""
    codes = {}
    for rank in sorted(range(len(parts)), key=lambda rank: parts[rank] in ("be_killed", "hang")):
        if parts[rank] == "hang":
            os.kill(pids[rank], signal.SIGKILL)
        codes[rank] = os.waitstatus_to_exitcode(os.waitpid(pids[rank], 0)[1])
    return [codes[rank] for rank in range(len(parts))]


def own_words(printed: str) -> str:
    """Without the warnings of torch's C++ code."""
    torchs = re.compile(r"\[rank\d|\[[WEI]\d|Exception raised|frame #|<omitting|$")
    return "\n".join(line for line in printed.splitlines() if not torchs.match(line))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(SCENARIOS)) as pool:
        outputs = {name: Path(folder, name) for name in SCENARIOS}
        pids = {name: fork(*scenario, outputs[name]) for name, scenario in SCENARIOS.items()}
        codes = {name: pool.submit(exit_codes, pids[name], SCENARIOS[name][0]) for name in SCENARIOS}
        found = {name: [codes[name].result(), own_words(outputs[name].read_text())] for name in SCENARIOS}
    json.dump(found, sys.stdout)
