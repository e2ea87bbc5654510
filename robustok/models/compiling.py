"""What torch.compile takes: single blocks, so that one compiled block serves all of its kind."""

from torch import nn


class CompiledBlock(nn.Module):
    """Base of the blocks that a network repeats: training compiles each of them by itself."""


def compiled_blocks(module: nn.Module) -> list[CompiledBlock]:
    """The blocks of `module` to compile, in order."""
    return [part for part in module.modules() if isinstance(part, CompiledBlock)]
