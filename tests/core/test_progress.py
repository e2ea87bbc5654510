"""One display of progress: lines elsewhere, a bar on a terminal."""

import contextlib
import os
import pty
import time

import pytest

from robustok.core.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def forward(seconds):
        now[0] += seconds

    return forward


def test_a_line_now_and_then_and_at_the_end(capsys, clock):
    with Progress("tokens", 100) as progress:
        for done in range(10, 101, 10):
            clock(1)
            progress.show(done)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "tokens 50/100 images  10 images/s  0:00:05 left",
        "tokens 100/100 images  10 images/s  took 0:00:10",
    ]


def test_a_total_that_is_known_late_and_another_unit(capsys, clock):
    with Progress("checked", unit="files") as progress:
        clock(2)
        progress.show(3, 3)
    assert capsys.readouterr().err == "checked 3/3 files  1.5 files/s  took 0:00:02\n"


def test_every_call_writes_a_line_where_asked_and_what_was_done_before_does_not_count(capsys, clock):
    with Progress("tokenizer", 200, start=100, unit="steps", interval=0) as progress:
        clock(10)
        progress.show(110, text="loss 0.5")
        assert progress.rate(110) == 1.0
        progress.show(110, text="loss 0.4")
    assert capsys.readouterr().err.splitlines() == [
        "tokenizer 110/200 steps  loss 0.5  0:01:30 left",
        "tokenizer 110/200 steps  loss 0.4  0:01:30 left",
    ]


def test_batches_are_counted_when_they_are_done(capsys, clock):
    seen = []
    for batch in Progress("images", 3, interval=0).track([[1, 2], [3]]):
        seen += batch
        clock(1)
        assert f"{len(seen)}/3" not in capsys.readouterr().err
    assert seen == [1, 2, 3] and capsys.readouterr().err.startswith("images 3/3 images")


def test_a_failure_and_other_processes_say_nothing(capsys, monkeypatch):
    with pytest.raises(KeyError), Progress("tokens", 2) as progress:
        progress.show(1)
        raise KeyError
    with Progress("tokens", 2, interval=0, shown=False) as progress:
        progress.show(2)
    monkeypatch.setattr("robustok.core.distributed.rank", lambda: 1)
    with Progress("tokens", 2, interval=0) as progress:
        progress.show(2)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", terminal)
        with Progress("photos[1]", 40) as progress:
            progress.show(40, text="loss 0.5")
    drawn = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while part := os.read(reader, 4096):
            drawn += part
    assert all(text in drawn for text in (b"photos[1]", b"40/40", b"loss 0.5")) and b"left" not in drawn
