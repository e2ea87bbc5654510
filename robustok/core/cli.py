"""What every verb does the same way: one message and an exit code on failure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from .errors import RunError, UserError
from .text import say, write_any_text


def run_verb(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs a verb: exit code 0, 2 for a user's mistake, 1 for a failure, 130 after Ctrl-C. --debug shows tracebacks."""
    write_any_text()
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    try:
        return main([argument for argument in argv if argument != "--debug"]) or 0
    except KeyboardInterrupt as error:
        say(str(error) or "interrupted", sys.stderr)
        return 130
    except (UserError, RunError, OSError) as error:
        if debug:
            raise
        say(f"robustok: {error}", sys.stderr)
        return 2 if isinstance(error, UserError) else 1
