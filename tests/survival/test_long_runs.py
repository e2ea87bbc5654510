"""A long run takes no more memory and no more open files than a short one."""

import json
from pathlib import Path

import pytest

from ..hostile.server import Server
from .works import TOKENS, make_inputs, of_stage

LOOK_EVERY = 100  # steps


@pytest.mark.parametrize("steps", [500, pytest.param(10_000, marks=pytest.mark.torture)])
def test_memory_and_open_files_stay(tmp_path, steps):
    """Resident memory grows by less than 1 % after the first fifth of the steps, with a checkpoint every 50.

    A file that is left open adds to every later look; one that a thread has open for a moment is in some looks only.
    """
    make_inputs(tmp_path)
    long = {"classifier.epochs": steps / 3, "classifier.save_every": 50, "log_every": 10}
    server = Server(tmp_path)
    ended = server.run(
        tmp_path, of_stage(TOKENS | long, "classifier").argv, 4 << 30, 3600, ["watch", "watched", LOOK_EVERY]
    )
    server.close()
    assert ended.code == 0, ended.stderr
    looks = [json.loads(line) for line in Path(tmp_path / "watched").read_text().splitlines()]
    assert len(looks) == steps // LOOK_EVERY
    settled = looks[len(looks) // 5 :]
    opened, middle = [len(look["files"]) for look in settled], len(settled) // 2
    assert min(opened[middle:]) <= max(opened[:middle]), looks
    assert max(look["memory"] for look in settled) < 1.01 * settled[0]["memory"], looks
