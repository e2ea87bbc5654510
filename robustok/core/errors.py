"""The two kinds of failure a command can end with.

Each message says what was found, where, what was expected and what to do.
"""


class UserError(ValueError):
    """The input is wrong (a setting, a path, a file): the command prints the message and exits with 2."""


class RunError(RuntimeError):
    """The run failed although its input was right (NaN loss, full disk): prints the message and exits with 1."""
