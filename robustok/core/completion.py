"""Completion of verbs and options by the shell, through argcomplete: `eval "$(register-python-argcomplete robustok)"`.

The shell starts the command with the line so far in the environment and reads the answers; nothing else is run. Where
argcomplete is not installed no shell asks.
"""

import os
from argparse import ArgumentParser
from collections.abc import Collection

ASKED = "_ARGCOMPLETE"  # is there where a shell asks; at which word of its line the command stands, from 1


def is_asked() -> bool:
    return ASKED in os.environ


def answer(parser: ArgumentParser) -> None:
    """Answers a shell that asks with what fits `parser`, and ends the process; does nothing where none asks."""
    if is_asked():
        import argcomplete

        argcomplete.autocomplete(parser)


def verb_asked_about(verbs: Collection[str]) -> str | None:
    """The verb whose options are to be completed, whose parser then `answer`s; None while the verb itself is typed."""
    words = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])].split(" ")
    if len(words) < 3 or words[1] not in verbs:
        return None
    os.environ[ASKED] = "2"  # robustok VERB is the command that the verb's parser knows
    return words[1]
