"""Which of several functions that compute the same is fastest: measured once, then kept in a file.

They differ in rounding, so a sampler must take the same one in every process and after every restart. That is why the
choice is kept on disk and made under a lock.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ...core.files import read_json, remove_leftovers, write_json
from ...core.graphs import capture
from ...core.locks import hold

CALLS, REPLAYS = 20, 3  # calls in a captured graph; replays of it, of which the fastest counts

Run = Callable[[], object]
Choice = dict[str, float | str]  # "taken", a name; for every candidate its milliseconds or why it cannot run


def choose_fastest(key: str, candidates: Mapping[str, Run], file: Path, milliseconds: Callable[[Run], float]) -> str:
    """The name of the fastest candidate that can run, from `file` where `key` is known there, else measured.

    key: all that the choice depends on; milliseconds: measures one call of a candidate.
    Raises RuntimeError where none can run.
    """
    with hold(file.with_suffix(".lock")):
        known = read_choices(file)
        if key not in known:
            known[key] = _measure(candidates, milliseconds)
            remove_leftovers(file.parent, file.name)
            write_json(file, known)
    return str(known[key]["taken"])


def read_choices(file: Path) -> dict[str, Choice]:
    """What was measured so far, by key."""
    return read_json(file) if file.exists() else {}


def _measure(candidates: Mapping[str, Run], milliseconds: Callable[[Run], float]) -> Choice:
    found: Choice = {}
    for name, run in candidates.items():
        try:
            found[name] = milliseconds(run)
        except torch.OutOfMemoryError:  # no fault of the candidate: the caller takes a smaller batch
            raise
        except (ImportError, TypeError, RuntimeError) as error:
            found[name] = f"cannot run: {error}"
    able = {name: value for name, value in found.items() if isinstance(value, float)}
    if not able:
        raise RuntimeError(f"no candidate can run: {found}")
    return {"taken": min(able, key=able.__getitem__), **found}


def graph_milliseconds(run: Run, device: torch.device) -> float:
    """Milliseconds of one call on a GPU inside a replayed graph, where launching it costs the host nothing."""

    def calls() -> None:
        for _ in range(CALLS):
            run()

    graph, times = capture(calls, device), []
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(REPLAYS):
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / CALLS)
    return min(times)
