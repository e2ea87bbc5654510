"""What a pickle costs to unpickle, found without unpickling it.

A pickle of a kilobyte can name more memory or work than any machine has: a place in the table of known objects with a
huge number, or a tuple of tuples of the same tuple, whose hash visits each as often as it occurs.
"""

import pickletools
from typing import Any, BinaryIO

from ..core.errors import UserError

MOST_BYTES = 1 << 25  # of one pickle; those of checkpoints are tables of contents, the tensors lie beside them
MOST_OPERATIONS = 2_000_000  # 25 a tensor
MOST_WORK = 50_000_000  # values hashed or walked, counted again wherever one repeats
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_HASHED_WHOLE = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}  # the sizes of other things do not add up


def refuse_costly(pickle: BinaryIO, where: str) -> None:
    """Walks over one pickle, which leaves the file at its end. Raises UserError where it costs more than the limits.

    Whatever is no pickle raises some other exception.
    """
    stack: list[int | None] = []  # sizes of what would lie on the unpickler's stack; None: a mark
    known: dict[int, int] = {}
    work = 0
    for count, (operation, argument, _) in enumerate(pickletools.genops(pickle)):
        name = operation.name
        if name in _PUTS or name == "MEMOIZE":
            number = len(known) if name == "MEMOIZE" else argument
            if number > count:
                raise UserError(f"{where} asks for a table of {number:,} known objects; no torch checkpoint does")
            known[number] = stack[-1] or 1
        elif name == "MARK":
            stack.append(None)
        elif name in _GETS:
            stack.append(known[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            taken = _take(stack, operation.stack_before)
            work += taken
            if operation.stack_after:
                stack.append(1 + taken if name in _HASHED_WHOLE else 1)
        if count > MOST_OPERATIONS or work > MOST_WORK:
            raise UserError(f"{where} stands for more values than a torch checkpoint has: it is made to exhaust memory")


def _take(stack: list[int | None], before: list[Any]) -> int:
    """Takes off the stack what an operation does, by pickletools' description; returns the sum of the sizes."""
    taken = 0
    if pickletools.markobject in before:
        while (size := stack.pop()) is not None:
            taken += size
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        taken += stack.pop() or 0
    return taken
