"""How a network is called in training: its blocks compiled where asked, its gradients averaged over the processes."""

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ..core import distributed
from ..models.compiling import compiled_blocks


class LossModule(nn.Module):
    """A model whose `forward` is its `loss`: DistributedDataParallel averages the gradients of `forward` alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs, **settings):
        return self.model.loss(*inputs, **settings)


def parallelize(module: nn.Module, *, compile: bool) -> nn.Module:
    """The module to call in training; its parameters stay those of `module`.

    With `compile` its repeated blocks are compiled in place, one by one. Where there are several processes it comes
    back in DistributedDataParallel.
    """
    if compile:
        for block in compiled_blocks(module):
            block.compile()
    if distributed.world() == 1:
        return module
    # buffers are the same on all processes already: they change only with the parameters
    return DistributedDataParallel(module, broadcast_buffers=False)


def without_averaging(module: nn.Module) -> AbstractContextManager:
    """Gradients of backward passes inside the context stay those of this process, until one outside averages them."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """The tensor as one process would hold it; a sharded one (FSDP2) is gathered, so all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
