"""Units of work that a GPU replays, where they can be looked at without one."""

from functools import partial

import torch

from robustok.core.graphs import fused


def test_one_process_compiles_any_number_of_batch_sizes(monkeypatch):
    """The compiler refuses the ninth version of the same code; a run of many sizes and models has more."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, options, **k: compile(f, backend="eager", **k))
    for count in range(1, 11):
        tokens = torch.zeros(count)
        fused(partial(advance, tokens))()
        assert torch.equal(tokens, torch.ones(count))


def advance(tokens):
    tokens += 1
