"""Which of several functions that compute the same is fastest: measured once, then kept in a file.

They differ in rounding, so what draws tokens must take the same one in every process and after every restart: that is
why the choice is kept on disk and made under a lock.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from ...core.files import read_json, remove_leftovers, write_json
from ...core.locks import hold

CALLS, REPLAYS = 20, 3  # calls a captured graph holds; replays of it, of which the fastest counts

Measured = dict[str, float | str]  # "taken" and, for every candidate, its milliseconds or why it cannot run


def fastest(key: str, candidates: dict[str, Callable[[], object]], file: Path,
            milliseconds: Callable[[Callable[[], object]], float]) -> str:  # fmt: skip
    """The name of the fastest candidate that can run, from `file` where `key` is known there, else measured.

    Raises RuntimeError where none can run.
    """
    with hold(file.with_suffix(".lock")):
        known = read(file)
        if key not in known:
            known[key] = _measure(candidates, milliseconds)
            remove_leftovers(file.parent, file.name)
            write_json(file, known)
    return known[key]["taken"]


def read(file: Path) -> dict[str, Measured]:
    """What was measured so far, by key."""
    return read_json(file) if file.exists() else {}


def _measure(candidates: dict[str, Callable[[], object]], milliseconds: Callable) -> Measured:
    found: Measured = {}
    for name, run in candidates.items():
        try:
            found[name] = milliseconds(run)
        except torch.OutOfMemoryError:  # says nothing of the candidate: the caller takes a smaller batch
            raise
        except (ImportError, TypeError, RuntimeError) as error:
            found[name] = f"cannot run: {error}"
    able = {name: value for name, value in found.items() if isinstance(value, float)}
    if not able:
        raise RuntimeError(f"no candidate can run: {found}")
    return {"taken": min(able, key=able.get)} | found


def graph_milliseconds(run: Callable[[], object]) -> float:
    """Of one call on the GPU inside a replayed graph, where launching it costs the host nothing."""
    run()  # builds its kernel
    torch.cuda.synchronize()
    graph, begin, end = torch.cuda.CUDAGraph(), *(torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread may be decoding
        for _ in range(CALLS):
            run()
    times = []
    for _ in range(REPLAYS):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / CALLS)
    return min(times)
