"""Rounds: every known token goes through once and in its order, and few of a set size go through only to fill up."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from robustok.samplers import autoregressive
from robustok.samplers.known_tokens import LONGEST, Round, keep_mask, rounds, rows_a_round
from tests.host_reads import reads_of

CPU = torch.device("cpu")


def mask(ratio, count=64, length=256):
    return torch.rand(count, length, generator=torch.Generator().manual_seed(0)) < ratio


@pytest.mark.parametrize("is_set", [False, True])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7, 0.95, 1.0])
def test_rounds_against_a_walk_through_every_sequence(ratio, is_set):
    """Tokens come in their order; a draw follows all tokens before it, and none that is not known or drawn by then."""
    known = mask(ratio, count=7, length=40)
    through, drawn = [0] * 7, [{0} if not row[0] else set() for row in known]
    for turn in rounds(known, CPU, rows_a_round(ratio, 7) if is_set else None):
        runs = turn.runs(1, 7)
        rows = list(zip(*(x.tolist() for x in (runs.sequences, runs.columns, runs.steps)), strict=True))
        for image, column, step in dict.fromkeys(rows):
            assert step == through[image] + 1 and column < runs.longest and step <= runs.reach
            assert known[image, step - 1] or step - 1 in drawn[image]
            through[image] = step
        places = [rows[i] for i in runs.last.tolist()]
        for image, step, (sequence, _, last) in zip(turn.images.tolist(), turn.drawn.tolist(), places, strict=True):
            if step < 40:
                assert (sequence, last) == (image, step) and step == through[image] and step not in drawn[image]
                drawn[image].add(step)
    assert drawn == [set((~row).nonzero().flatten().tolist()) for row in known]


@pytest.mark.parametrize(("ratio", "most_rows", "most_rounds"), [(0.0, 1.01, 1.01), (0.5, 1.2, 1.1), (0.7, 1.1, 1.1)])
def test_rounds_of_a_set_size_waste_little(ratio, most_rows, most_rounds):
    """Against rounds as they come: rows that go through, and how many rounds there are."""
    known = mask(ratio, count=256)
    own, rows = list(rounds(known, CPU)), rows_a_round(ratio, 256)
    found = list(rounds(known, CPU, rows))
    assert {(turn.rows, turn.draws, turn.longest) for turn in found} == {(rows, 256, LONGEST)}
    assert len(found) <= most_rounds * len(own)
    assert len(found) * rows <= most_rows * sum(turn.rows for turn in own)


@pytest.fixture(params=["rar", "llamagen"])
def model(request, make_model, make_llamagen):
    return (make_model if request.param == "rar" else make_llamagen)()


class Copies(TorchDispatchMode):
    """Counts tensors that are made of the host's numbers."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found += func is torch.ops.aten.lift_fresh.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_rounds_of_a_set_size_draw_the_same_tokens(model, scale):
    """The unit that a GPU captures: the same addresses every round, nothing read on the host, nothing sent to it."""
    classes, keep = torch.tensor([0, 3, 1, 1, 2]), torch.randint(0, 40, (5, model.num_tokens))
    sampler = model.sampler(guidance_scale=scale)
    expected = sampler.generate(classes, seed=3, keep_tokens=keep, keep_ratio=0.6)
    known = expected == keep  # more may be than were kept: they are drawn to be the same
    assert 0.5 < known.double().mean() < 0.9
    with torch.no_grad():
        sampler._start(classes, 3, torch.arange(5))
        sampler.board[1:] = -1
        sampler.tokens.T[known] = keep[known]
        sampler.tokens[0] = expected[:, 0]
        rows = rows_a_round(0.6, 5)
        turns = list(rounds(known, CPU, rows))
        unit = Round(torch.empty_like(turns[0].packed), rows, 5, LONGEST, model.num_tokens - 1)
        for turn in turns:
            unit.packed.copy_(turn.packed)
            assert not reads_of(lambda: sampler._round(unit))
        assert torch.equal(sampler.tokens.T, expected)
        with Copies() as copies:
            sampler._round(unit)
    assert copies.found == 0


def test_graphs_of_many_ratios_are_not_all_kept(model, monkeypatch):
    """A graph has memory of its own; those used last are kept, and what is captured anew draws the same tokens."""
    captured = []

    def capture(unit, device):
        unit()
        captured.append(SimpleNamespace(replay=unit))
        return captured[-1]

    monkeypatch.setattr(autoregressive, "capture", capture)
    classes, keep = torch.tensor([0, 3, 1, 1, 2]), torch.randint(0, 40, (5, model.num_tokens))
    sampler = model.sampler(guidance_scale=3.0)

    @torch.no_grad()
    def replayed(ratio):
        """As `generate` on a GPU."""
        logits = sampler._start(classes, 3, torch.arange(5))
        known = keep_mask(ratio, 3, torch.arange(5), model.num_tokens)
        sampler.tokens.copy_(keep.T)
        first = sampler._draw(logits, sampler.step.zero_(), sampler.ids)
        sampler.tokens[0] = torch.where(known[:, 0], keep[:, 0], first)
        sampler._replay_rounds(known, rows_a_round(ratio, 5))
        return sampler.tokens.T.clone()

    ratios = [0.0, 0.6, 0.7, 0.8, 0.9, 0.95]
    expected = {r: sampler.generate(classes, seed=3, keep_tokens=keep, keep_ratio=r) for r in ratios}
    for ratio in ratios:
        assert torch.equal(replayed(ratio), expected[ratio])
    assert len(captured) == 6 and [*sampler.graphs.values()] == captured[2:]
    for ratio, count in ((0.7, 6), (0.0, 7), (0.7, 7), (0.8, 8)):
        assert torch.equal(replayed(ratio), expected[ratio])
        assert len(captured) == count and len(sampler.graphs) == autoregressive.GRAPHS


def test_rounds_go_to_the_device_in_one_copy(monkeypatch):
    sent = []
    original = torch.from_numpy
    monkeypatch.setattr(torch, "from_numpy", lambda x: sent.append(x) or original(x))
    turns = list(rounds(mask(0.7), CPU))
    assert len(sent) == 1 and len({turn.packed.untyped_storage().data_ptr() for turn in turns}) == 1
    assert np.array_equal(torch.cat([turn.packed for turn in turns]).numpy(), sent[0])
