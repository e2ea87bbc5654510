"""The processes of one run look after each other, so that none waits for one that is gone.

Each gives a sign of life every second, through the store at which they met, and looks at those of others: the main
process at all, every process at the main one and at those of its own machine. Where one is gone, or has failed and said
why, the others end at once with one message in all. Work that one process does alone, however long, is no silence.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch.distributed as dist

from .text import say

BEAT = 1.0  # seconds between signs of life
SILENCE = 30.0  # seconds without one, after which a process counts as lost
CLOSING = 20.0  # seconds in which the main process of an interrupted run may close what it has open
RESUME = "The same command goes on from what was saved last"
WATCH = "robustok-peers"  # name of the threads that look after the others
GONE = "is gone without a word: killed (SIGKILL, as where memory runs out) or crashed; see what its launcher says"
LEFT = "left"  # in place of a sign of life: it has ended as it should


class Process(NamedTuple):
    """A process of the run."""

    rank: int
    host: str
    pid: int
    pids: str  # whose numbers of processes `pid` is one of: a machine's or a container's

    def __str__(self) -> str:
        return f"process {self.rank} (host {self.host}, pid {self.pid})"


class Peers:
    """This process among the others. From here on its death, or theirs, ends all.

    Args:
        connect: makes a new connection to the store at which the processes met.
        rank, world: of this process, and how many there are.
    """

    def __init__(self, connect: Callable[[], dist.Store], rank: int, world: int):
        self.rank, self.world = rank, world
        self._store, self._watching = connect(), connect()
        me = Process(rank, socket.gethostname(), os.getpid(), _namespace())
        self._store.set(f"beat/{rank}", "0")
        self._store.set(f"who/{rank}", json.dumps(me))
        everyone = self._store.multi_get([f"who/{other}" for other in range(world)])
        self._processes = [Process(*json.loads(one)) for one in everyone]
        self._me = self._processes[rank]
        self._watched = [p for p in self._processes if p.rank != rank and (rank == 0 or p.rank == 0 or self._near(p))]
        self._heard = {p.rank: ("", time.monotonic()) for p in self._watched}
        self._barriers, self._leaving = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, name=WATCH, daemon=True)
        self._thread.start()

    def barrier(self) -> None:
        """Waits until every process has come here, for as long as all of them live."""
        self._barriers += 1
        here, before = f"barrier/{self._barriers}", f"barrier/{self._barriers - 1}"
        if self._store.add(here, 1) == self.world:
            self._store.set(f"{here}/open", "")
            for old in (before, f"{before}/open"):  # everybody is past it
                self._store.delete_key(old)
        pause = 0.001
        while not self._store.check([f"{here}/open"]):
            time.sleep(pause)
            pause = min(2 * pause, 0.1)

    def leave(self) -> None:
        """Says good-bye. The main process, which may be the store's host, goes last."""
        if self.rank == 0:
            self._wait_for_others()
        self._say_goodbye()

    def claim_last_words(self, code: int, error: BaseException) -> None:
        """To be called by a process that fails before it says why. Does not return where another one failed first.

        An interruption reaches all: the main process, which has files and trackers to close, is to be the first then.
        """
        try:
            patience = SILENCE + 3 * BEAT if _of_connections(error) else 0
            if isinstance(error, KeyboardInterrupt) and self.rank > 0:
                patience = CLOSING
            until = time.monotonic() + patience
            self._name_who_is_gone()  # a launcher may stop this process because that one ended
            with suppress(KeyboardInterrupt):  # whoever interrupts once more does not want to wait
                while time.monotonic() < until and not self._store.check(["end"]):
                    time.sleep(0.02)  # the watch ends this process as soon as it misses one of another machine
                    self._name_who_is_gone()
            if not self._claim(self._store, str(self._me), code):
                self._end_quietly()
        except dist.DistError:
            self._lose_store()

    def end_all(self, code: int) -> NoReturn:
        """To be called after that, when it has said why: the others end, too."""
        self._store.set("said", "")
        self._exit(code)

    def _name_who_is_gone(self) -> None:
        for other in self._watched:
            if how := self._gone(other):
                self._end(f"{other} {how}")

    def _near(self, other: Process) -> bool:
        return (other.host, other.pids) == (self._me.host, self._me.pids)

    def _watch(self) -> None:
        beats = 0
        while not self._leaving.wait(BEAT):
            beats += 1
            looking = _in_time(self._look, beats)
            try:
                found = looking.result(SILENCE)
            except (dist.DistError, TimeoutError):
                self._lose_store()
            if found is not None:
                self._end(found)

    def _look(self, beats: int) -> str | None:
        """Gives a sign of life, and says who is gone, if someone is."""
        store = self._watching
        if store.check(["end"]):
            self._end_quietly()
        store.set(f"beat/{self.rank}", str(beats))
        now = time.monotonic()
        for other in self._watched:
            value = self._beat_of(other.rank)
            if value == LEFT:
                continue
            if value != self._heard[other.rank][0]:
                self._heard[other.rank] = (value, now)
            if how := self._gone(other):
                return f"{other} {how}"
            if now - self._heard[other.rank][1] > SILENCE:
                return f"{other} gave no sign of life for {SILENCE:.0f} seconds: it was killed, or its machine is lost"
        return None

    def _beat_of(self, rank: int) -> str:
        return self._watching.get(f"beat/{rank}").decode()

    def _gone(self, other: Process) -> str | None:
        """How a process of this machine ended early; None while it is there, and for one of another machine."""
        how = how_it_ended(other.pid) if self._near(other) else None
        return None if how and self._beat_of(other.rank) == LEFT else how

    def _end(self, who: str) -> NoReturn:
        if not self._claim(self._watching, who, 1):
            self._end_quietly()
        say(f"robustok: {who}; the other processes end, too. {RESUME}", sys.stderr)
        self._watching.set("said", "")
        self._exit(1)

    def _lose_store(self) -> NoReturn:
        """The process that holds the store is gone, and its machine maybe; one process of each machine says so."""
        main = self._processes[0]
        how = (
            how_it_ended(main.pid) if self._near(main) else None
        ) or "does not answer: it ended, or its machine is lost"
        if self.rank == min(p.rank for p in self._processes[1:] if self._near(p)):
            say(f"robustok: {main} {how}; the other processes end, too. {RESUME}", sys.stderr)
        os._exit(1)

    def _claim(self, store: dist.Store, who: str, code: int) -> bool:
        """Whether this thread is the first that says who is gone: the watch and the main one may both have seen it."""
        words = json.dumps([self.rank, who, code, threading.get_ident()])
        return store.compare_set("end", "", words) == words.encode()

    def _end_quietly(self) -> NoReturn:
        """Ends without a word once the process that knows why has said it."""
        code = 1
        with suppress(dist.DistError):
            code = json.loads(self._watching.get("end"))[2]
            until = time.monotonic() + 5
            while not self._watching.check(["said"]) and time.monotonic() < until:
                time.sleep(0.05)
        self._exit(code)

    def _exit(self, code: int) -> NoReturn:
        """Ends this process without the good-byes of its libraries, which may wait for those who are gone."""
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(dist.DistError):
            self._say_goodbye()
            if self.rank == 0:
                self._wait_for_others(5 * BEAT)
        os._exit(code)

    def _say_goodbye(self) -> None:
        """The last sign of life."""
        self._leaving.set()
        if threading.current_thread().name != WATCH:
            self._thread.join()
        self._store.set(f"beat/{self.rank}", LEFT)

    def _wait_for_others(self, seconds: float = float("inf")) -> None:
        until, others = time.monotonic() + seconds, [f"beat/{rank}" for rank in range(1, self.world)]
        while any(value.decode() != LEFT for value in self._store.multi_get(others)) and time.monotonic() < until:
            time.sleep(0.05)


def how_it_ended(pid: int) -> str | None:
    """How a process of this machine ended, as far as others can see it; None while it runs."""
    try:
        os.kill(pid, 0)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except ProcessLookupError:
        return GONE
    except FileNotFoundError:  # it went just now; or this system has no /proc, and it is there
        return GONE if Path("/proc/self/stat").exists() else None
    except PermissionError:
        return None
    if fields[0] not in "ZX":
        return None
    code = os.waitstatus_to_exitcode(int(fields[-1]))  # nobody has asked for it yet, so the system still knows
    return f"ended with exit code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _of_connections(error: BaseException) -> bool:
    """Whether a collective failed because of another process (gloo and NCCL raise plain RuntimeErrors, too)."""
    words = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in words or "nccl" in words)
    )


def _in_time(function, *arguments) -> Future:
    """function(*arguments) in a thread of its own, which may hang for ever where a machine is lost."""
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=WATCH, daemon=True).start()
    return future
