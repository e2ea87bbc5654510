"""What every verb does the same way: one message and an exit code on failure."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .errors import RunError, UserError
from .text import one_line, say, write_any_text

# What the system says of paths that cannot be meant, wherever they come from.
_WRONG_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EACCES)


def run_verb(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs a verb: exit code 0, 2 for a user's mistake, 1 for a failure, 130 after Ctrl-C or SIGTERM.

    --debug shows tracebacks. One of several processes that work together ends here and does not return.
    """
    write_any_text()
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    try:
        with _stopped_by_sigterm(), _threads_in_a_line(), _warnings_in_a_line(debug):
            _refuse_empty(argv)
            code = main([argument for argument in argv if argument != "--debug"]) or 0
        if _one_of_several():
            from . import distributed

            distributed.end(code)
        return code
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted", 130, error)
    except (UserError, RunError, OSError) as error:
        if debug:
            raise
        code, said = _in_words(error)
        return _fail(f"robustok: {said}", code, error)
    except Exception as error:
        if _is_of_memory(error) and not debug:
            asked = f" ({one_line(error)})" if str(error) else ""
            what = f"not enough memory{asked}; ask for fewer or smaller images, or smaller batches"
            return _fail(f"robustok: {what}", 1, error)
        if not _one_of_several():
            raise
        return _fail(traceback.format_exc(), 1, error)


def _in_words(error: Exception) -> tuple[int, str]:
    """(exit code, message) of an error that is no bug."""
    if isinstance(error, OSError) and error.errno in _WRONG_PATHS and error.filename:
        return 2, f"{one_line(error.filename)}: {error.strerror}; give another path, or change what stands there"
    said = str(error).replace("\n", "\n  ")  # no name in it begins a line as a message of ours does
    return 2 if isinstance(error, UserError) else 1, said


def _fail(message: str, code: int, error: BaseException) -> int:
    """Says it and gives the exit code back. Of several processes the first that fails says it, and all of them end."""
    if not _one_of_several():
        say(message, sys.stderr)
        return code
    from . import distributed

    with distributed.last_words(code, error):
        say(message, sys.stderr)
    return code


def _one_of_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _is_of_memory(error: Exception) -> bool:
    """Whether memory was asked for that is not there. torch, not imported here, has an error of its own for a GPU's,
    and a message of its own for the CPU's.
    """
    if isinstance(error, RuntimeError):
        return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    return isinstance(error, MemoryError)


def _refuse_empty(argv: Sequence[str]) -> None:
    """An argument without text is a variable of a shell that was never set; as a path it would be this folder."""
    for before, argument in zip(["", *argv], argv, strict=False):
        option, equals, value = argument.partition("=")
        if not argument or (equals and not value and option.startswith("--")):
            where = option or before
            raise UserError(f"{where or 'argument'}: found an empty text; give a value, or leave it out")


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM, by which schedulers and containers stop a process, ends the body as Ctrl-C does."""

    def stop(*_) -> None:
        raise KeyboardInterrupt("stopped by SIGTERM; what is written is whole, the same command goes on from there")

    if threading.current_thread() is not threading.main_thread():  # which alone can catch signals
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


@contextmanager
def _threads_in_a_line() -> Iterator[None]:
    """A thread of a library that fails, as TensorBoard's on a full disk, says so in a line without a traceback."""
    previous = threading.excepthook
    threading.excepthook = lambda failed: say(f"robustok: {failed.exc_value}", sys.stderr)
    try:
        yield
    finally:
        threading.excepthook = previous


@contextmanager
def _warnings_in_a_line(debug: bool) -> Iterator[None]:
    """A warning is a line without its place in the code, whatever names of files are in it. debug: as Python has it."""
    previous = warnings.formatwarning
    if not debug:
        warnings.formatwarning = lambda message, *where: f"warning: {one_line(message)}\n"
    try:
        yield
    finally:
        warnings.formatwarning = previous
