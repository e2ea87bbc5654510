"""What a pickle may refer to: the classes and functions of `allowed_globals`, and classes that are left out.

All of them are made for one file, so that nothing a pickle does to them lasts; `plain` replaces them afterwards.
"""

import argparse
from typing import Any

import torch

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


def plain(value: Any) -> Any:
    """`value` with plain types in place of the classes made for one file, and without what is left out."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if not (_is_left_out(key) or _is_left_out(item))}
        return {plain(key): plain(item) for key, item in kept.items()}
    if isinstance(value, argparse.Namespace):
        return argparse.Namespace(**plain(vars(value)))
    if isinstance(value, list):
        return [plain(item) for item in value if not _is_left_out(item)]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value if not _is_left_out(item))
    if isinstance(value, int) and type(value) is not bool:
        return bool(value) if type(value).__name__ == "ScalarBoolean" else int(value)
    return float(value) if isinstance(value, float) else value


def _is_left_out(value: Any) -> bool:
    return isinstance(value, _LeftOut) or (isinstance(value, type) and issubclass(value, _LeftOut))
