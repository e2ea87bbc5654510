"""Sharded tensors in a checkpoint: every process writes its own, and any number of processes reads them.

The files are safetensors, as all of a checkpoint, through torch.distributed.checkpoint: which part of a tensor a file
holds stands in its header. Their names begin with `shard-`.
"""

import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from ..core import distributed

PATTERN = "shard-*.safetensors"


def write(folder: Path | None, tensors: Mapping[str, Tensor]) -> None:
    """Every process writes its shards of `tensors` into `folder`, which the main process names for all.

    All processes must call this; it returns where all have written and synced theirs.
    """
    distributed.barrier()  # the main process may have written much before
    named = distributed.gathered(str(folder))[0]
    dcp.save(dict(tensors), storage_writer=HuggingFaceStorageWriter(named, save_distributed=True))


def read(folder: Path, empty: Callable[[str], Tensor | None], besides: Collection[str]) -> dict[str, Tensor]:
    """The sharded tensors of a checkpoint by name; none where it has none. All processes must call this.

    Args:
        empty: gives a tensor to fill, whole or sharded in any way, for a name; None: it is left out.
        besides: names of tensors that other files of the checkpoint hold whole.
    """
    if not any(folder.glob(PATTERN)):
        return {}
    reader = HuggingFaceStorageReader(str(folder))
    found = {name: empty(name) for name in reader.read_metadata().state_dict_metadata if name not in besides}
    tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # where there is one process
        dcp.load(tensors, storage_reader=reader, no_dist=distributed.world() == 1)
    return tensors
