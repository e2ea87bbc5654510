"""Files and folders are written whole or not at all."""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from robustok.core import files
from robustok.core.errors import RunError, UserError
from robustok.core.files import (
    free_bytes,
    read_json,
    remove_leftovers,
    remove_whole,
    sha256,
    write_bytes,
    write_json,
    written_whole,
)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file"
    with written_whole(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == path.parent
        temporary.write_text("whole")
    assert path.read_text() == "whole" and names(path.parent) == ["file"]


def test_a_failure_keeps_what_was_there_and_leaves_nothing(tmp_path):
    write_bytes(tmp_path / "file", b"old")
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "file") as temporary:
        temporary.write_text("half of the new")
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="full"), written_whole(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "part").write_text("half")
        raise OSError("full")
    assert (tmp_path / "file").read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_a_folder_replaces_an_older_one(tmp_path):
    for content in ("old", "new"):
        with written_whole(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["new"]


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    with written_whole(tmp_path / "folder") as temporary:
        (temporary / "inside").mkdir(parents=True)
        (temporary / "inside" / "file").touch()
    expected = [temporary / "inside", temporary / "inside" / "file", temporary, tmp_path]
    assert sorted(synced[:-2]) == sorted(map(str, expected[:-2])) and synced[-2:] == list(map(str, expected[-2:]))
    synced.clear()
    write_bytes(tmp_path / "file", b"", sync=False)
    assert not synced


def test_processes_of_the_same_number_do_not_meet(tmp_path, monkeypatch):
    """Containers that share a folder number their processes alike."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    with written_whole(tmp_path / "file") as one, written_whole(tmp_path / "file") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "file").read_text() == "one"  # the last to end


def _write_until_killed(folder):
    with written_whole(folder / "shard-00001") as temporary:
        temporary.mkdir()
        (temporary / "part").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_write_until_killed, args=(tmp_path,))
    process.start()
    process.join()
    for kept in (".hidden.tmp", "shard-00001.tmp", ".shard-00001.tmp"):
        (tmp_path / kept).touch()
    assert len(names(tmp_path)) == 4
    remove_leftovers(tmp_path, "shard-00002")
    remove_leftovers(tmp_path, "shard-0000")
    assert len(names(tmp_path)) == 4
    remove_leftovers(tmp_path, "shard-00001")
    assert names(tmp_path) == [".hidden.tmp", ".shard-00001.tmp", "shard-00001.tmp"]
    remove_leftovers(tmp_path / "nowhere")


def _replace_until_killed(folder):
    with written_whole(folder) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
        Path.rename = lambda self, target: (
            os.kill(os.getpid(), signal.SIGKILL) if self == temporary else _rename(self, target)
        )


_rename = Path.rename


def test_a_folder_moved_out_of_the_way_by_a_killed_process_is_put_back(tmp_path):
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / "old").touch()
    process = multiprocessing.get_context("fork").Process(target=_replace_until_killed, args=(tmp_path / "step-1",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and len(names(tmp_path)) == 2 and "step-1" not in names(tmp_path)
    remove_leftovers(tmp_path, "step-")
    assert names(tmp_path) == ["step-1"] and names(tmp_path / "step-1") == ["old"]


def test_a_folder_is_put_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "folder" / "old").mkdir(parents=True)

    def fail(self, target):
        if self.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return _rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"), written_whole(tmp_path / "folder") as temporary:
        temporary.mkdir()
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["old"]


def test_a_removed_folder_is_gone_or_whole(tmp_path, monkeypatch):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    monkeypatch.setattr(shutil, "rmtree", lambda path: None)  # a kill before the first file went
    remove_whole(tmp_path / "folder")
    monkeypatch.undo()
    assert "folder" not in names(tmp_path) and len(names(tmp_path)) == 1
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_explained(tmp_path, monkeypatch, number):
    def full(*_):
        raise OSError(number, os.strerror(number))

    write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match=r"file: no space left \(.*\): [\d,]+ bytes free on its disk, 1,234 needed"):
        write_bytes(tmp_path / "file", b"n" * 1234)
    assert (tmp_path / "file").read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_free_bytes_are_of_the_nearest_folder_there_is(tmp_path):
    assert abs(free_bytes(tmp_path / "not" / "yet") / shutil.disk_usage(tmp_path).free - 1) < 0.1


def test_json_round_trip_and_its_one_message(tmp_path):
    write_json(tmp_path / "a.json", {"é": [1, None]})
    assert read_json(tmp_path / "a.json") == json.loads((tmp_path / "a.json").read_text()) == {"é": [1, None]}
    (tmp_path / "b.json").write_text('{"cut')
    for name, said in (("b.json", "cannot be read as JSON"), ("missing.json", "does not exist; expected a JSON file")):
        with pytest.raises(UserError, match=f"{name} {said}"):
            read_json(tmp_path / name)


def test_the_longest_name_can_be_written_whole_and_its_leftovers_are_found(tmp_path, monkeypatch):
    name = "é" * 120 + "n" * 15  # 255 bytes
    write_bytes(tmp_path / name, b"x")
    assert names(tmp_path) == [name]
    with monkeypatch.context() as killed:
        killed.setattr(files, "_remove", lambda path: None)
        with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / name) as temporary:
            temporary.touch()
            raise KeyboardInterrupt
    assert len(names(tmp_path)) == 2
    remove_leftovers(tmp_path, name)
    assert names(tmp_path) == [name]


def test_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
