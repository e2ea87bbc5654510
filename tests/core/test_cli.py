"""How every verb ends: exit codes and one message."""

import os
import signal
import threading
import warnings

import pytest
import torch

from robustok.core.cli import run_verb
from robustok.core.errors import RunError, UserError


def verb(error: BaseException | None, result=None):
    def main(argv):
        if error is not None:
            raise error
        return result

    return main


@pytest.mark.parametrize(
    "error, code, said",
    [
        (UserError("x: found 1, expected 2"), 2, "robustok: x: found 1, expected 2\n"),
        (RunError("the loss is NaN"), 1, "robustok: the loss is NaN\n"),
        (FileNotFoundError(2, "No such file", "a.pt"), 1, "robustok: [Errno 2] No such file: 'a.pt'\n"),
        (
            PermissionError(13, "Permission denied", "a"),
            2,
            "robustok: a: Permission denied; give another path, or change what stands there\n",
        ),
        (OSError(28, "No space left on device", "a"), 1, "robustok: [Errno 28] No space left on device: 'a'\n"),
        (UserError("a\nrobustok: b"), 2, "robustok: a\n  robustok: b\n"),
        (KeyboardInterrupt("saved at step 3"), 130, "saved at step 3\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (None, 0, ""),
    ],
)
def test_exit_code_and_message(capsys, error, code, said):
    assert run_verb(verb(error), []) == code
    assert capsys.readouterr().err == said


def test_a_verb_may_return_its_own_code():
    assert run_verb(verb(None, 1), []) == 1


def test_debug_shows_the_traceback_and_is_no_argument_of_the_verb():
    with pytest.raises(UserError):
        run_verb(verb(UserError("x")), ["--debug"])
    seen = []
    run_verb(seen.extend, ["a", "--debug", "--b"])
    assert seen == ["a", "--b"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."),
    ],
)
def test_memory_that_is_not_there_is_said_in_a_line(capsys, error):
    assert run_verb(verb(error), []) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("robustok: not enough memory") and "smaller batches" in line


@pytest.mark.parametrize("argv, where", [(["a", "--output", ""], "--output"), (["--n="], "--n"), ([""], "argument")])
def test_an_empty_argument_is_a_mistake(capsys, argv, where):
    assert run_verb(verb(ZeroDivisionError()), argv) == 2
    assert capsys.readouterr().err == f"robustok: {where}: found an empty text; give a value, or leave it out\n"


def test_a_warning_is_one_line_whatever_it_names(capsys):
    def main(argv):
        warned = UserWarning("skipped: a\nb\x1b[2J\udcff.png")
        print(warnings.formatwarning(warned, UserWarning, "code.py", 1), end="")

    before = warnings.formatwarning
    assert run_verb(main, []) == 0
    assert capsys.readouterr().out == "warning: skipped: a\\nb\\x1b[2J\\xff.png\n"
    assert warnings.formatwarning is before


def test_a_bug_is_no_message():
    with pytest.raises(ZeroDivisionError):
        run_verb(verb(ZeroDivisionError()), [])


def test_sigterm_ends_a_verb_as_ctrl_c_does(capsys):
    cleaned = []

    def main(argv):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert run_verb(main, []) == 130
    assert cleaned and "stopped by SIGTERM" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_thread_that_fails_is_a_line(capsys):
    def fail():
        raise OSError(28, "No space left on device")

    def main(argv):
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

    assert run_verb(main, []) == 0
    assert capsys.readouterr().err == "robustok: [Errno 28] No space left on device\n"
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run_verb(verb(UserError("x")), [])))  # catches no signals
    thread.start()
    thread.join()
    assert codes == [2]
