"""How a network is called in training: blocks compiled where asked, computed by all processes whole or in shards."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ..core import distributed
from ..models.compiling import compiled_blocks

# Buffers are the same on all processes already: they change only with the parameters. Newer torch has another name.
_NAMES = ("forward_sync_buffers", "broadcast_buffers")
_OWN_BUFFERS = {next(name for name in _NAMES if name in signature(DistributedDataParallel).parameters): False}

NORMS = (nn.LayerNorm, nn.RMSNorm)


class LossModule(nn.Module):
    """A model whose `forward` is its `loss`: what several processes share hangs on the `forward` of a module.

    DistributedDataParallel averages its gradients, and FSDP2 brings the parameters together for it.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs, **settings):
        return self.model.loss(*inputs, **settings)


def parallelize(
    module: nn.Module,
    *,
    compile: bool = False,
    checkpoint_activations: bool = False,
    parallel: Literal["ddp", "fsdp"] = "ddp",
    bfloat16: bool = False,
) -> nn.Module:
    """Makes `module` ready to be trained. To be called before its parameters are given to an optimiser.

    With `compile` its repeated blocks are compiled in place, one by one. With `checkpoint_activations` a block keeps
    its inputs alone and is computed again, with the same random draws, when its gradients are asked for.

    Where there are several processes, each holds all of it, in DistributedDataParallel: see `averaged`. With "fsdp" a
    LossModule is sharded over them instead, in place (FSDP2), block by block; networks that are called by more than one
    method, as tokenizers are, stay whole.

    bfloat16: autocast is on, so blocks may be brought together in it; gradients are added up in float32 either way.
    """
    for block in compiled_blocks(module):
        if checkpoint_activations:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if compile:
            block.compile()
    if distributed.world() > 1 and parallel == "fsdp" and isinstance(module, LossModule):
        _shard(module, bfloat16)
    return module


def averaged(module: nn.Module) -> nn.Module:
    """The module to call in training, after `parallelize`: its gradients are the average over the processes."""
    if distributed.world() == 1 or isinstance(module, FSDPModule):
        return module
    return DistributedDataParallel(module, **_OWN_BUFFERS)


def _shard(module: nn.Module, bfloat16: bool) -> None:
    mesh = init_device_mesh(next(module.parameters()).device.type, (distributed.world(),))
    whole = MixedPrecisionPolicy()
    if bfloat16:
        # inputs stay as autocast has them; norms, and what is outside the blocks, are computed in float32
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        norms = [part for part in module.modules() if isinstance(part, NORMS) and [*part.parameters()]]
        fully_shard(norms, mesh=mesh, mp_policy=whole)
    for block in compiled_blocks(module):
        fully_shard(block, mesh=mesh, mp_policy=half if bfloat16 else whole)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)  # validation has no backward pass to do so


@contextmanager
def without_averaging(module: nn.Module) -> Iterator[None]:
    """Gradients of backward passes inside the context stay those of this process, until one outside averages them."""
    if isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    elif isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(False)
        yield
        module.set_requires_gradient_sync(True)
    else:
        yield


def whole(tensor: Tensor) -> Tensor:
    """The tensor as one process would hold it; a sharded one (FSDP2) is gathered, so all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_on_main(tensor: Tensor) -> Tensor:
    """`whole`, where only the main process keeps a sharded tensor, on the CPU; the others get an empty one."""
    if not isinstance(tensor, DTensor):
        return tensor
    gathered = tensor.full_tensor()
    return gathered.cpu() if distributed.is_main() else gathered.new_empty(0)


def held_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, as `like` is held: this process's shard of it where that is sharded."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """`module.load_state_dict` of whole tensors, into a module that may be sharded."""
    own = module.state_dict()
    module.load_state_dict({name: held_as(tensor, own.get(name, tensor)) for name, tensor in tensors.items()})
