"""What torch.compile takes: single blocks, so that one compiled block serves all of its kind.

A network whose blocks all differ in their sizes (a convolutional one) is a block itself.
"""

from torch import nn


class CompiledBlock(nn.Module):
    """Base of what training compiles, each by itself."""


def compiled_blocks(module: nn.Module) -> list[CompiledBlock]:
    """The blocks of `module` to compile, in order."""
    return [part for part in module.modules() if isinstance(part, CompiledBlock)]


def compile_blocks(module: nn.Module) -> None:
    """Compiles them in place, at their first call."""
    for block in compiled_blocks(module):
        block.compile()
