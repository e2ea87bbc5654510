"""What a captured graph reads of one batch is where it reads it of the next: a graph keeps addresses, not names."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustok.models.generators import rar_modulation
from robustok.samplers.known_tokens import rounds, rows_a_round


class Addresses(TorchDispatchMode):
    """Where everything lies that is read and was there before; nothing met is let go, so no address comes twice."""

    def __init__(self):
        super().__init__()
        self.read, self.made, self.kept = set(), set(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        self.read |= {address(x) for x in given} - self.made
        out = func(*args, **(kwargs or {}))
        found = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.made |= {address(x) for x in found} - self.read  # views and results in place are of what was there
        self.kept += given + found
        return out


def address(tensor):
    return tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("unit", ["step", "round"])
@pytest.mark.parametrize("family", ["rar", "rar, small table", "llamagen"])
@torch.no_grad()
def test_the_next_batch_is_read_where_the_first_was(family, unit, make_model, make_llamagen, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # its copies of weights are a CPU's alone
    if family == "rar, small table":
        monkeypatch.setattr(rar_modulation, "TABLE_BYTES", {"cpu": 1, "cuda": 1})
    model = make_llamagen() if family == "llamagen" else make_model()
    sampler = model.sampler(guidance_scale=3.0)
    sampler._start(torch.tensor([0, 1, 2]), 3, torch.arange(3))
    known = torch.rand(3, model.num_tokens, generator=torch.Generator().manual_seed(0)) < 0.5
    turn = next(rounds(known, torch.device("cpu"), rows_a_round(0.5, 3)))
    sampler.step.fill_(1)
    work = sampler._advance if unit == "step" else partial(sampler._round, turn)
    first, second = Addresses(), Addresses()
    with first:
        work()
    sampler._start(torch.tensor([4, 3, 3]), 5, torch.arange(3, 6))  # fewer classes, too
    with second:
        work()
    assert len(first.read) > 10 and second.read == first.read
