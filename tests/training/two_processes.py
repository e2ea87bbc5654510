"""Run under torchrun by test_distributed.py: main training with the weights compared across processes at every step."""

import sys

import torch
import torch.distributed as dist

from robustok.train import main
from robustok.training.loop import Fit

take_step = Fit._take_step


def compared(self, batch):
    terms = take_step(self, batch)
    for trained in self.stage.trained:
        weights = torch.cat([p.detach().flatten() for p in trained.network.parameters()])
        others = [torch.empty_like(weights) for _ in range(dist.get_world_size())]
        dist.all_gather(others, weights)
        assert all(torch.equal(weights, other) for other in others), f"{trained.name} differs at step {self.state.step}"
    return terms


Fit._take_step = compared
raise SystemExit(main(sys.argv[1:]))
