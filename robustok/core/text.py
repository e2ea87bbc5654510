"""Names of files and classes, and messages with them, made safe to show: on a terminal of any encoding and in a page.

A name may hold anything: brackets that rich takes for markup, control sequences of a terminal, bytes that are no UTF-8.
"""

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# Control characters but line breaks and tabs, those that turn the direction of text, and bytes that are no UTF-8, which
# Python reads as half surrogates.
_NOT_SHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """str(text) with what no terminal or page should get written out, as \\xNN (also a byte) or \\uNNNN."""
    return _NOT_SHOWN.sub(_written_out, str(text))


def one_line(text: object) -> str:
    """printable(text) with line breaks and tabs written out, too: for names, and for what must stay one line."""
    return printable(text).replace("\t", "\\t").replace("\n", "\\n")


def some_of(names: Iterable[object], most: int = 10) -> str:
    """The first names, and how many more there are: "a, b and 3 more"; "nothing" where there is none."""
    shown = [one_line(name) for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return (", ".join(shown[:most]) or "nothing") + more


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # the byte that it stands for
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"


def say(text: object, file: TextIO | None = None) -> None:
    """Prints a line, made printable, on standard output or `file`."""
    print(printable(text), file=file, flush=True)


def console(stderr: bool = False) -> "Console":
    """rich's console that shows text as it is: no markup, no emoji codes, no colours guessed from what it says."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def write_any_text() -> None:
    """Standard output and error write what their encoding lacks as an escape from now on, where they failed before."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
