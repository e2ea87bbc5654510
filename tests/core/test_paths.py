"""Paths from outside: only files are opened, and outputs are refused before any work."""

import os
import re
import socket
from pathlib import Path

import pytest

from robustok.core.errors import UserError
from robustok.core.paths import FILE, FOLDER, check_output, given_path, readable_folder, regular_file


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def special(tmp_path, monkeypatch):
    """A folder with a file, a folder, and what is neither."""
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        monkeypatch.chdir(tmp_path)  # a socket's path must be short
        made.bind("socket")
    for name, target in {"good": "file", "device": "/dev/zero", "broken": "nowhere", "loop": "loop"}.items():
        (tmp_path / name).symlink_to(target)
    return tmp_path


OTHERS = {
    "pipe": "is a named pipe",
    "socket": "is a socket",
    "device": "is a device",
    "broken": "is a broken link",
    "loop": "cannot be looked at (Too many levels of symbolic links)",
    "nowhere": "does not exist",
    "file/below": "cannot be looked at (Not a directory)",
    "zero\0": "holds a zero byte",
    "n" * 300: "cannot be looked at (File name too long)",
}


@pytest.mark.parametrize("name", ["folder", *OTHERS])
def test_only_regular_files_are_opened(special, name):
    said = OTHERS.get(name, "is a folder")
    with pytest.raises(UserError, match=re.escape(f"{special / name} {said}") + ".*; expected a file of weights"):
        regular_file(special / name, "a file of weights")


def test_links_are_followed_to_what_they_lead_to(special, monkeypatch):
    assert regular_file(special / "good").read_bytes() == b"abc"
    assert readable_folder(special / "folder") == special / "folder"
    with pytest.raises(UserError, match="good is a file; expected a folder"):
        readable_folder(special / "good")
    monkeypatch.setenv("HOME", str(special))
    assert regular_file("~/file") == special / "file"
    assert given_path("~nobody of this name/x") == Path("~nobody of this name/x")  # as shells take it


def test_what_this_user_may_not_read_is_refused(special, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, whom nothing is denied
    for opened, name in ((regular_file, "file"), (readable_folder, "folder")):
        with pytest.raises(UserError, match=f"{name} may not be read by this user"):
            opened(special / name)


@pytest.mark.parametrize("kind, right, wrong", [(FILE, "file", "folder"), (FOLDER, "folder", "file")])
def test_outputs_are_refused_before_any_work(special, kind, right, wrong):
    before = names(special)
    for name in (right, "new", "new/below"):
        check_output("--output", special / name, kind=kind)
    for name in (wrong, *OTHERS):
        if name != "nowhere":
            with pytest.raises(UserError, match=re.escape(f"--output: {special / name} ")):
                check_output("--output", special / name, kind=kind)
    with pytest.raises(UserError, match="--output: /proc/x cannot be written: nothing can be made in /proc"):
        check_output("--output", "/proc/x", kind=kind)
    assert names(special) == before


def test_outputs_spare_the_data(special):
    inputs = {"--images": special / "folder", "--reference": special / "file", "--other": None, "--no": special / "\0"}
    for inside in ("folder", "folder/new", "folder/../folder/new"):
        with pytest.raises(UserError, match="would lie inside --images"):
            check_output("--output", special / inside, inputs)
    with pytest.raises(UserError, match=r"--save: .*good would replace --reference"):
        check_output("--save", special / "good", inputs, kind=FILE)
    check_output("--save", special / "beside", inputs, kind=FILE)
