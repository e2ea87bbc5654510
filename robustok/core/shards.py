"""The share of a command's work that one job of a scheduler's array does: `--shard i/N`, and `--merge`.

Jobs of an array need no process group: units of work are shared out by their number, each is written whole, and the job
that finds all of them there puts them together.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .errors import UserError
from .text import say, some_of

Unit = TypeVar("Unit")

# Scheduler -> the variables in which it says: this job's index, the array's first and last index, its step.
SCHEDULERS = {
    "Slurm": ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP"),
    "Grid Engine": ("SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"),
}


@dataclass(frozen=True)
class Shard:
    """Every `count`-th unit of work from the `number`-th on; number 0: none, what others have done is put together."""

    number: int
    count: int

    def mine(self, units: Sequence[Unit]) -> Sequence[Unit]:
        return units[self.number - 1 :: self.count] if self.number else units[:0]

    @property
    def is_all(self) -> bool:
        return self == ALL


ALL, NONE = Shard(1, 1), Shard(0, 1)


def shard_of(text: str) -> Shard:
    """ "i/N" -> the shard, with i from 1 to N; the type of --shard."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ArgumentTypeError(f"found {text!r}, expected i/N with i from 1 to N, as 2/8")
    return Shard(int(number), int(count))


def add_shard(parser: ArgumentParser, unit: str) -> None:
    """--shard and --merge, for `my_shard`; `unit` says in the plural what is shared out."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--shard",
        type=shard_of,
        metavar="i/N",
        help=f"only every N-th of the {unit}, from the i-th on; the job that finds all of them done puts them together"
        " (default: the place of this job in an array of Slurm or Grid Engine; else all)",
    )
    either.add_argument(
        "--merge",
        dest="shard",
        action="store_const",
        const=NONE,
        help=f"puts the {unit} of all jobs together, and computes none; refused while some are missing",
    )


def my_shard(options: Namespace) -> Shard:
    """What --shard or --merge says; else what the scheduler says, in a line on the terminal; else all."""
    return options.shard or scheduled(os.environ) or ALL


def scheduled(environment: Mapping[str, str]) -> Shard | None:
    """This job's place in the array of a scheduler; None outside of one.

    Raises UserError for an array whose indices are not evenly spaced: its jobs cannot know how many they are.
    """
    for scheduler, names in SCHEDULERS.items():
        values = [environment.get(name, "") for name in names]
        if not all(value.isdecimal() for value in values):
            continue  # outside of an array Grid Engine says "undefined"
        index, first, last, step = map(int, values)
        step = max(1, step)
        shard = Shard((index - first) // step + 1, (last - first) // step + 1)
        said = environment.get("SLURM_ARRAY_TASK_COUNT", str(shard.count))
        if scheduler == "Slurm" and said != str(shard.count):
            raise UserError(
                f"this job is one of {said} of an array of Slurm whose indices {first}..{last} are not evenly spaced; "
                "give each job its --shard i/N"
            )
        say(f"job {index} of an array of {scheduler}: --shard {shard.number}/{shard.count}")
        return shard
    return None


def refuse_partial(shard: Shard, missing: Sequence[str], of: str) -> bool:
    """True where units are missing still, after a line on the terminal; False where all of `of` is there.

    Raises UserError where they were to be put together.
    """
    if not missing:
        return False
    listed = some_of(missing, 5)
    if shard == NONE:
        raise UserError(f"--merge: of {of} there is no {listed} yet; wait for the jobs, or run the command without it")
    say(f"{of}: not there yet: {listed}; the job that finishes last, or the same command with --merge, goes on")
    return True
