"""Data that does not come is named, again, and ends the wait; an error of a thread says what it was reading."""

import re
import subprocess
import sys
import threading

import pytest
import torch

from robustok.config import DataConfig
from robustok.core.errors import RunError
from robustok.data import readers
from robustok.data.images import open_images
from robustok.data.loader import batches, prefetch


@pytest.fixture
def split(photos):
    return open_images(DataConfig(root=str(photos), val=1, test=1), 16).train


@pytest.fixture
def impatient(monkeypatch):
    """Says so three times before it gives up; a loaded machine may come too late for one."""
    monkeypatch.setattr(readers, "PATIENCE", 0.3)
    monkeypatch.setattr(readers, "LIMIT", 1.0)


def first_batch(split):
    return next(batches(split, batch_size=4, seed=0, epoch=0, threads=2))


@pytest.fixture
def stalled(split):
    """The number of an image of the first batch, found before anybody is impatient."""
    return int(split.ids[first_batch(split).rows[1]])


def test_a_stalled_image_is_named_again_and_then_stops(split, stalled, impatient, monkeypatch, capsys):
    release = threading.Event()
    read = split.source.read
    monkeypatch.setattr(split.source, "read", lambda i: release.wait(60) and None if i == stalled else read(i))
    try:
        name = re.escape(split.source.names[stalled])
        with pytest.raises(
            RunError, match=rf"no data for \d+ s: reader \d has been reading {name} for \d+ s.*last checkp"
        ):
            first_batch(split)
    finally:
        release.set()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2 and all(split.source.names[stalled] in line for line in lines)


def test_a_pause_is_waited_for(split, monkeypatch, capsys):
    monkeypatch.setattr(readers, "PATIENCE", 0.05)
    read, expected = split.source.read, first_batch(split)
    monkeypatch.setattr(split.source, "read", lambda i: threading.Event().wait(0.15) or read(i))
    assert torch.equal(first_batch(split).inputs, expected.inputs)
    assert "no data for" in capsys.readouterr().err


def test_a_stuck_thread_does_not_keep_the_process(tmp_path):
    """After the error the command ends, though the read never does."""
    code = (
        "import threading; from robustok.data import readers, loader\n"
        "readers.PATIENCE, readers.LIMIT = 0.05, 0.1\n"
        "list(loader.prefetch(lambda item: threading.Event().wait(), range(3), 2))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1 and "no data for" in ended.stderr


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ZeroDivisionError("of a decoder")])
def test_an_error_of_a_thread_says_what_it_was_reading(split, monkeypatch, error):
    def fail(index):
        raise error

    monkeypatch.setattr(split.source, "read", fail)
    with pytest.raises((RunError, ZeroDivisionError)) as raised:
        first_batch(split)
    told = str(raised.value) + "".join(getattr(raised.value, "__notes__", []))
    assert str(error) in told and any(name in told for name in split.source.names) and "reader " in told
    assert raised.value is error or raised.value.__cause__ is error


def test_a_readers_own_timeout_is_no_stall(monkeypatch):
    def late(item):
        raise TimeoutError("of the server")

    with pytest.raises(TimeoutError, match="of the server"):
        list(prefetch(late, range(3), 2))
    assert readers.being_read() == "no thread is reading an image or a shard"
