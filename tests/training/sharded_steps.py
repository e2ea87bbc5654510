"""Run by test_parallel.py: two forked processes train a small generator, each holding all of it and then in shards.

Prints as JSON, for each kind of NUMBERS and each way, [[loss, norm of the gradients], ...] of some steps, and how many
collectives averaged gradients in the first of two micro-batches and in the second.
"""

import json
import os
import socket
import traceback
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from robustok.config import TrainingConfig
from robustok.core import distributed
from robustok.model_configs import RARConfig
from robustok.models.generators.rar import RAR
from robustok.training.ema import EMA
from robustok.training.optimizers import TrainedModule
from robustok.training.parallel import LossModule, without_averaging

NUMBERS = {"float32": (False, False), "bfloat16": (True, False), "fused": (False, True)}  # (autocast, fused AdamW)
IDS, STEPS = torch.arange(8), 3


def trained_generator(parallel: str, autocast: bool, fused: bool) -> TrainedModule:
    torch.manual_seed(0)
    model = RAR(RARConfig(32, 2, 2, 64, codebook_size=8, num_classes=3, num_tokens=16))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    config = SimpleNamespace(compile=False, checkpoint_activations=True, parallel=parallel)
    run = SimpleNamespace(config=config, bfloat16=autocast, device=torch.device("cpu"))
    settings = TrainingConfig(clip_norm=0.5, weight_decay=0.1)
    trained = TrainedModule.with_adamw("x", model, settings, lambda step: 1e-3, run, module=LossModule(model))
    if fused:  # as on a GPU
        groups = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in trained.optimizer.param_groups]
        trained.optimizer = torch.optim.AdamW(groups, fused=True)
    return trained


def objective(trained: TrainedModule, step: int, autocast: bool) -> torch.Tensor:
    own = IDS.chunk(2)[distributed.rank()]
    tokens = torch.randint(8, (8, 16), generator=torch.Generator().manual_seed(step))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        return trained.module(tokens[own], own % 3, seed=step, sample_ids=own, random_order_share=0.5)[0]


def take_steps(parallel: str, autocast: bool, fused: bool) -> list[list[float]]:
    trained = trained_generator(parallel, autocast, fused)
    average, taken = EMA(trained.network, 0.9), []
    for step in range(STEPS):
        trained.optimizer.zero_grad(set_to_none=True)
        loss = objective(trained, step, autocast)
        loss.backward()
        taken.append([float(distributed.mean(loss)), float(trained.step(step))])
        average.update()
    return taken


class ReduceScatters(TorchDispatchMode):
    """Counts what FSDP2 averages gradients by."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "reduce_scatter" in str(func)
        return func(*args, **(kwargs or {}))


def averaging_collectives() -> list[int]:
    """Of the backward passes of two micro-batches, sharded."""
    trained, counts = trained_generator("fsdp", False, False), []
    for last in (False, True):
        with ReduceScatters() as seen:
            if last:
                objective(trained, 0, False).backward()
            else:
                with without_averaging(trained.module):
                    objective(trained, 0, False).backward()
        counts.append(seen.count)
    return counts


def main() -> None:
    distributed.start(torch.device("cpu"))
    found = {kind: {way: take_steps(way, *how) for way in ("ddp", "fsdp")} for kind, how in NUMBERS.items()}
    found["averaging collectives"] = averaging_collectives()
    if distributed.is_main():
        print(json.dumps(found), flush=True)
    distributed.stop()


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    pids = []
    for rank in range(2):
        pids.append(os.fork())
        if pids[-1] == 0:
            try:
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                main()
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)
