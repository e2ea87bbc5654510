"""Killed, told to stop and interrupted in everything that takes long: the same command goes on to the same bits."""

import random
import signal

import pytest

from ..hostile.server import Server
from .base import Base
from .works import LATENT_WORKS, TOKEN_WORKS, content

SOFT = (signal.SIGTERM, signal.SIGINT)  # by turns
STOPPED = 130


@pytest.mark.parametrize("works", [TOKEN_WORKS, LATENT_WORKS], ids=["tokens", "latents"])
def test_stopped_again_and_again_and_finished_to_the_bit(tmp_path, works):
    """Three kills, one signal and a full disk in each, at changes of the disk after a save to go on from."""
    server = Server(tmp_path)
    base = Base(tmp_path, server, works)
    for number, work in enumerate(works):
        if work.name == "latents: classifier":
            continue  # the same as that of the other run
        draw, folder = random.Random(work.name), base.before(work)
        first = base.first_save(work)
        span = (len(base.changes[work.name]) - first) // 5
        stops = [signal.SIGKILL, signal.SIGKILL, SOFT[number % 2], signal.SIGKILL]
        for turn, stop in enumerate(stops):
            at = draw.randint(1, span) + (first if turn == 0 else 0)
            ended = base.run(folder, work, ["stop_at", at, stop])
            said = f"{work.name}, stop {turn} at change {at}: {ended.stdout}{ended.stderr}"
            assert ended.code == (-stop if stop == signal.SIGKILL else STOPPED), said
            assert "Traceback" not in ended.stderr, said
        ended = base.run(folder, work, ["full_from", draw.randint(1, max(1, span // 2))])
        said = f"{work.name}: {ended.stdout}{ended.stderr}"
        assert ended.code == 1 and "o space left" in ended.stderr and "Traceback" not in ended.stderr, said
        ended = base.run(folder, work)
        assert ended.code == 0, f"{work.name}: {ended.stdout}{ended.stderr}"
        found, expected = content(folder, work), base.expected[work.name]
        assert found.keys() == expected.keys(), work.name
        assert [place for place, value in expected.items() if found[place] != value] == [], work.name
    server.close()
