"""One of two processes of test_resuming.py: a network sharded over both (FSDP2) takes a step and is saved.

Takes its rank and a folder.
"""

import sys

import torch
import torch.distributed as dist
from test_resuming import save_after_a_step
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    save_after_a_step(folder, lambda network: fully_shard(network, mesh=init_device_mesh("cpu", (2,))))
    dist.barrier()  # no process leaves while the other still waits for its last message
    dist.destroy_process_group()
