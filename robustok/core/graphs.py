"""Units of work as a GPU replays them: fused by torch.compile, and captured as a graph."""

from collections.abc import Callable
from types import FunctionType

import torch


def fused(unit: Callable[[], None]) -> Callable[[], None]:
    """`unit` by torch.compile, for the sizes at hand.

    Sizes left open would cost speed at the second batch size or model. Products are not padded, which each process
    would measure anew: padded ones round differently. The function has code of its own, because the compiler refuses
    the ninth version of the same code.
    """

    def call() -> None:
        unit()

    own = FunctionType(call.__code__.replace(), globals(), closure=call.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False, options={"shape_padding": False})


def capture(unit: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """The graph of one unit, which must do the same when it runs again.

    Three runs on a stream of their own come first, to build kernels and to find memory.
    """
    aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            unit()
    torch.cuda.current_stream().wait_stream(aside)
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread may be decoding
        unit()
    return graph
