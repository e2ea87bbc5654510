"""YAML of people: plain values alone, of a size that is known before any of them is made."""

import math
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError
from .parsing import parsing, read_bounded

MOST_BYTES = 1 << 16  # settings take a tenth of it
MOST_NODES = 20_000  # values, counted again wherever an alias repeats them
MOST_DEPTH = 50  # values one in the other
MOST_DIGITS = 100  # of a number


def read_yaml(path: str | Path, cure: str) -> Any:
    """The content of a YAML file; objects of Python are refused, as by yaml.safe_load. cure: ends the message.

    Raises UserError for a file that is missing, too large or no YAML, for aliases that make more of it than MOST_NODES
    or lead back to themselves, and for a name that is given twice.
    """
    with parsing(path, "YAML", cure):
        loader = yaml.SafeLoader(read_bounded(path, MOST_BYTES, f"a YAML file; {cure}").decode("utf-8-sig"))
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            size, depth = _measure(node, str(path), {})
            if size > MOST_NODES or depth > MOST_DEPTH:
                found = "aliases that lead back to themselves"
                if size < math.inf:
                    found = f"{size:,} values, {depth} one in the other, its aliases followed"
                expected = f"expected at most {MOST_NODES:,} values, {MOST_DEPTH} one in the other"
                raise UserError(f"{path} holds {found}; {expected}; {cure}")
            return loader.construct_document(node)
        finally:
            loader.dispose()


def _measure(node: yaml.Node, where: str, known: dict[int, tuple[float, float]]) -> tuple[float, float]:
    """(how many nodes are in a node, itself counted; how deep they go); those already seen are not walked again."""
    if id(node) not in known:
        known[id(node)] = math.inf, math.inf  # what it comes to if it is met again before it is measured
        if isinstance(node, yaml.MappingNode):
            _refuse_twice([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)], where)
            inside = [part for pair in node.value for part in pair]
        else:
            inside = node.value if isinstance(node, yaml.SequenceNode) else []
        is_number = node.tag.endswith((":int", ":float")) and isinstance(node, yaml.ScalarNode)
        if is_number and len(node.value) > MOST_DIGITS:
            raise UserError(f"{where} holds a number of {len(node.value)} digits; expected at most {MOST_DIGITS}")
        found = [_measure(part, where, known) for part in inside]
        known[id(node)] = 1 + sum(size for size, _ in found), 1 + max((depth for _, depth in found), default=0)
    return known[id(node)]


def _refuse_twice(names: list[str], where: str) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{where} gives {twice!r:.80} twice; expected each name once: remove the one that is not meant")
