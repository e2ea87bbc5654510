"""Which functions of the package read a value of a tensor: on a GPU each waits for all that was asked of it before."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import robustok

PACKAGE = Path(robustok.__file__).parent
READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default, torch.ops.aten.equal.default}
READS |= {torch.ops.aten.item.default}  # in inference mode
# Their result has a size that the host must know.
READS |= {torch.ops.aten.nonzero.default, torch.ops.aten.masked_select.default, torch.ops.aten.bincount.default}


class Reads(TorchDispatchMode):
    """Notes which functions of the package read a tensor's value, or make something whose size depends on values."""

    def __init__(self):
        super().__init__()
        self.found: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        boolean = func is torch.ops.aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        if func in READS or boolean:
            self.note(sys._getframe(1))
        return func(*args, **(kwargs or {}))

    def note(self, frame) -> None:
        """The innermost function of the package, or of this file, above `frame`."""
        while not Path(frame.f_code.co_filename).is_relative_to(PACKAGE) and frame.f_code.co_filename != __file__:
            frame = frame.f_back
        path = Path(frame.f_code.co_filename)
        where = str(path.relative_to(PACKAGE)) if path.is_relative_to(PACKAGE) else path.name
        self.found[where, frame.f_code.co_name] += 1


def reads_of(step: Callable[[], object]) -> Counter[tuple[str, str]]:
    """How often each function of the package, as (file, name), reads while `step` runs."""
    with Reads() as reads, pytest.MonkeyPatch.context() as patch:
        for name in ("tolist", "numpy", "cpu"):  # these do not pass through the dispatcher on a CPU
            original = getattr(torch.Tensor, name)

            def noted(self, *args, _original=original, **kwargs):
                reads.note(sys._getframe(1))
                return _original(self, *args, **kwargs)

            patch.setattr(torch.Tensor, name, noted)
        step()
    return reads.found
