"""Units of work that a GPU replays, where they can be looked at without one."""

from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from robustok.core.graphs import capture, fused


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


def test_a_graph_is_captured_on_the_gpu_of_its_inputs(monkeypatch):
    """Where another one is current. Torch's own stream for captures is on the GPU of a process's first capture."""
    current, ran_on, captured_on = [0], [], []

    @contextmanager
    def on(index):
        current.append(index)
        yield
        current.pop()

    def graph(graph, stream=None, **others):
        captured_on.append(stream.device if stream else 0)
        return on(captured_on[-1])

    def new_stream():
        return SimpleNamespace(device=current[-1], wait_stream=lambda other: None)

    fakes = {"device": lambda device: on(device.index), "stream": lambda stream: on(stream.device), "graph": graph}
    fakes |= {"Stream": new_stream, "current_stream": new_stream, "CUDAGraph": SimpleNamespace}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    capture(lambda: ran_on.append(current[-1]), torch.device("cuda", 1))
    assert ran_on == [1, 1, 1, 1] and captured_on == [1] and current == [0]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_graph_is_replayed_on_the_gpu_of_its_inputs():
    for index in (0, 1, 0):
        tokens = torch.zeros(3, device=f"cuda:{index}")
        graph = capture(partial(advance, tokens), tokens.device)
        tokens.zero_()
        graph.replay()
        assert tokens.tolist() == [1, 1, 1]
