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


def capture(unit: Callable[[], None], device: torch.device) -> torch.cuda.CUDAGraph:
    """The graph of one unit on a GPU, which must do the same when it runs again; it is replayed there, too.

    Three runs on a stream of their own come first, to build kernels and to find memory.
    """
    with torch.cuda.device(device):
        aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                unit()
        torch.cuda.current_stream().wait_stream(aside)
        # The stream is given because torch's own is one a process, on the GPU that was the current one at its first
        # capture. Another thread may be decoding.
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            unit()
    return graph
