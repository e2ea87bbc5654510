"""What a pickle may refer to: the classes and functions of `allowed_globals`, and classes that are left out.

All of them are made for one file, so that nothing a pickle does to them lasts; `plain` replaces them afterwards.
"""

import argparse
import math
from typing import Any

import torch

from ..core.errors import UserError

MOST_VALUES = 5_000_000  # that an object comes to
MOST_DEPTH = 100  # one in the other
MOST_BITS = 1024  # of a whole number
MOST_REPEATED = 1 << 20  # numbers of an expanded tensor, one stored number seen as many
# Packages whose classes hold no weights. Lightning's checkpoints name some beside the weights.
LEFT_OUT = ("pytorch_lightning", "lightning", "lightning_fabric")
# What a pickle makes NumPy's numbers of, as a best loss beside the weights is one; weights are torch's.
NUMPY_NUMBERS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "_codecs.encode")
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _LeftOut:
    """Stands for what is left out: takes whatever a pickle does to it, and keeps nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def _ignore(self, *args):
        pass

    __setstate__ = __setitem__ = append = extend = _ignore


def left_out(name: str) -> type | None:
    """A new class in place of the class or function of this dotted name, where it is left out; else None."""
    is_left_out = name.partition(".")[0] in LEFT_OUT or name in NUMPY_NUMBERS
    return type("LeftOut", (_LeftOut,), {}) if is_left_out else None


def allowed_globals() -> dict[tuple[str, str], Any]:
    """(module, name) -> what takes its place."""

    def rebuild_tensor(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
        count = math.prod(size)
        if count > max(storage.numel(), MOST_REPEATED):  # a stride of 0 makes any size of one number
            raise ValueError(f"a tensor {tuple(size)} of {storage.numel()} stored numbers")
        return storage.as_strided(size, stride, offset)  # torch checks the bounds

    def rebuild_parameter(data, requires_grad=False, hooks=None):
        return data

    def ordered_dict(items=()):
        return _OrderedDict(items)

    class _OrderedDict(dict):  # state dicts carry an attribute, which a plain dict cannot
        pass

    allowed: dict[tuple[str, str], Any] = {("torch", name): dtype for name, dtype in DTYPES.items()}
    allowed |= {
        ("collections", "OrderedDict"): ordered_dict,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
        ("argparse", "Namespace"): type("Namespace", (argparse.Namespace,), {}),
        ("ruamel.yaml.scalarfloat", "ScalarFloat"): type("ScalarFloat", (float,), {}),
        ("ruamel.yaml.scalarint", "ScalarInt"): type("ScalarInt", (int,), {}),
        ("ruamel.yaml.scalarbool", "ScalarBoolean"): type("ScalarBoolean", (int,), {}),
        ("ruamel.yaml.comments", "CommentedSeq"): type("CommentedSeq", (list,), {}),
        ("ruamel.yaml.comments", "LineCol"): type("LineCol", (), {}),  # where a sequence stood in its YAML file,
        ("ruamel.yaml.comments", "Format"): type("Format", (), {}),  # and how it was written
    }
    return allowed


def plain(value: Any, where: str) -> Any:
    """`value` with plain types in place of the classes made for one file, and without what is left out.

    Raises UserError naming `where` for what holds itself, for more than MOST_VALUES values, counted again wherever one
    repeats, and more than MOST_DEPTH one in the other: who walks over the result later need not count.
    """
    made, size, depth = _plain(value, {})
    if size > MOST_VALUES or depth > MOST_DEPTH:
        found = "a value that holds itself" if size == math.inf else f"{size:,} values, {depth} one in the other"
        raise UserError(f"{where} holds {found}: no torch checkpoint does")
    return made


def _plain(value: Any, known: dict[int, tuple[Any, float, float]]) -> tuple[Any, float, float]:
    """(the plain value, how many values it comes to, how deep they go); each container is walked once."""
    if not isinstance(value, dict | list | tuple | argparse.Namespace):
        return _plain_number(value), 1, 1
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = None, math.inf, math.inf  # what it comes to if it is met again before it is counted
    content = vars(value) if isinstance(value, argparse.Namespace) else value
    pairs = content.items() if isinstance(content, dict) else ((item,) for item in content)
    kept = [[_plain(part, known) for part in pair] for pair in pairs if not any(map(_is_left_out, pair))]
    made, parts = [tuple(made for made, _, _ in pair) for pair in kept], [part for pair in kept for part in pair]
    size, depth = 1 + sum(part[1] for part in parts), 1 + max((part[2] for part in parts), default=0)
    known[id(value)] = _like(value, made) if size < math.inf else None, size, depth
    return known[id(value)]


def _like(value: Any, made: list[tuple[Any, ...]]) -> Any:
    """A plain container as `value` is one: of pairs of names and items, or of single items."""
    if isinstance(value, argparse.Namespace):
        return argparse.Namespace(**dict(made))
    if isinstance(value, dict):
        return dict(made)
    return (list if isinstance(value, list) else tuple)(item for (item,) in made)


def _plain_number(value: Any) -> Any:
    if isinstance(value, int) and type(value) is not bool:
        if value.bit_length() > MOST_BITS:
            raise ValueError(f"a whole number of {value.bit_length():,} bits")
        return bool(value) if type(value).__name__ == "ScalarBoolean" else int(value)
    return float(value) if isinstance(value, float) else value


def _is_left_out(value: Any) -> bool:
    return isinstance(value, _LeftOut) or (isinstance(value, type) and issubclass(value, _LeftOut))
