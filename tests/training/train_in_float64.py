"""Run by test_same_steps.py, by itself and under torchrun: robustok.train in float64, once for each list of arguments.

The lists come as JSON.
"""

import json
import sys
from functools import partial

import torch
import torch.distributed as dist
from torch._dynamo.utils import counters
from torch.optim.optimizer import register_optimizer_step_post_hook

from robustok.core import distributed
from robustok.models.tokenizers import quantizer
from robustok.ops.vq import checks
from robustok.train import main

# Where the project says float it means float64 here. In float32 the order of a sum changes a gradient that should be 0
# by as much as the eps that Adam divides by, and the step with it; how much, depends on the processor. In float64 such
# a gradient is a billion times smaller than eps.
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
checks.DTYPES = (torch.float64,)
torch.backends.cuda.enable_flash_sdp(False)  # torch 2.11 compiles its backward pass on a CPU for float32 alone
for op in ("vq_nearest", "vq_quantize"):  # the other backends compute in float32
    setattr(quantizer, op, partial(getattr(quantizer, op), backend="reference"))


def compare_weights(optimizer, args, kwargs):
    """After every step of every optimiser: its parameters are the same on all processes, to the last bit."""
    if dist.is_initialized():
        weights = torch.cat([p.detach().flatten() for group in optimizer.param_groups for p in group["params"]])
        others = [torch.empty_like(weights) for _ in range(dist.get_world_size())]
        dist.all_gather(others, weights)
        assert all(torch.equal(weights, other) for other in others), "the processes have different weights"


register_optimizer_step_post_hook(compare_weights)
for arguments in json.loads(sys.argv[1]):
    main(arguments)
    assert "--compile" not in arguments or counters["stats"]["unique_graphs"], "nothing was compiled"
distributed.end(0)
