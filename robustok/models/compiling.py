"""What torch.compile takes: single blocks, so that one compiled block serves all of its kind.

A network whose blocks all differ in their sizes (a convolutional one) is a block itself.

Whole forward passes with their losses are not taken: on a CPU they are slower. At the small sizes of
bench/bench_training.py (one thread of an AMD EPYC under load, torch 2.14.1, 27 November 2026, CPU time, median of 9) a
step of the tokenizer takes 640 ms eager, 621 by blocks and 1312 as a whole, one of RAR 539, 521 and 8106; and RAR's is
traced three times in its first three steps, a block once.
"""

from typing import Any

import torch
from torch import nn

# One code of a block is met with several widths, lengths, modes and needs of gradients: networks that learn and frozen
# ones, training and validation. torch compiles 8 by default and leaves all later ones as they are.
GRAPHS = 64


class CompiledBlock(nn.Module):
    """Base of what training compiles, each by itself."""

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As torch's; up to GRAPHS graphs of one code."""
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, GRAPHS)
        super().compile(*args, **kwargs)


def compiled_blocks(module: nn.Module) -> list[CompiledBlock]:
    """The blocks of `module` to compile, in order."""
    return [part for part in module.modules() if isinstance(part, CompiledBlock)]


def compile_blocks(module: nn.Module, **how: Any) -> None:
    """Compiles them in place, at their first call. how: as torch.compile takes it."""
    for block in compiled_blocks(module):
        block.compile(**how)
