"""Lookup and perturbation on a GPU beside their peers, on every backend made for it.

Inputs rotate over more than the cache holds; the codebook stays, as it does in use. The time of a call is taken twice:
as it is, which is what the peers are compared by, and inside a replayed graph, where launching costs the host nothing:
goals in milliseconds, and between two of our own operations, are for the second.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from robustok import ops
from robustok.ops.vq.backends import registry

from .bench_ops import BETA, DELTA, PEER, D, K, check_exact, inputs, variants
from .ops_peers import anchors, authors_perturb, authors_quantize, kernel_of
from .recording import measure, median, product_rate, replayed_milliseconds

N, SETS = 262_144, 3  # 201 MB of inputs in turn
BACKENDS = [name for name, backend in registry.BACKENDS.items() if backend.devices == ("cuda",)]
ANCHORS = ("flash-kmeans, float16", "flashlib, bfloat16")  # of which the faster one counts
# milliseconds, and at least how many times as fast as each peer
LOOKUP = (0.40, {"authors, quantise": 20, "cdist + argmin": 12, "flash-kmeans, float32": 3, PEER: 1})
BOTH = {  # by beta, the share of images perturbed
    BETA: (0.6, {"authors, quantise + perturb": 40, "top-k on perturbed rows": 1}),
    1.0: (1.5, {"authors, quantise + perturb": 20, "top-k on perturbed rows": 1}),
}


class Operation(NamedTuple):
    """What the rows of a backend are measured on."""

    name: str  # of the backend
    device: str
    sets: list[Tensor]  # of latents, used in turn
    codebook: Tensor

    @property
    def count(self) -> int:
        """Tokens of a set."""
        return self.sets[0][..., 0].numel()


@pytest.fixture(params=BACKENDS)
def on(request, timed, record, gpu) -> Operation:
    """A backend with its inputs, checked first, where the memory of the next results holds what none may hold.

    Where nothing is timed it is the backend "torch": Triton's interpreter takes a tenth of a second a token.
    """
    if not timed and request.param != BACKENDS[0]:
        pytest.skip(f"the same as for {BACKENDS[0]}")
    device, name = gpu(f"operations, {request.param}"), request.param if timed else "torch"
    if reason := registry.reasons(torch.device(device))[name]:
        record.add_not_measured("operations", request.node.name, reason)
        pytest.skip(reason)
    count = N if timed else 512
    codebook = inputs(count, device)[1][: None if timed else 256]
    found = [inputs(count, device, seed)[0] for seed in range(SETS)]
    for size in (1 << 28, 1 << 24, *[1 << 16] * 16) if timed else ():  # large and small: they are kept apart
        torch.full((size,), torch.nan, device=device)
    check_exact(found[0], codebook, name)
    return Operation(name, device, found, codebook)


def rotating(runs: list[dict[str, Callable]]) -> dict[str, Callable]:
    """One function a variant, each call of which is that of the next input set."""

    def turns(what: str) -> Callable:
        calls = itertools.cycle([run[what] for run in runs])
        return lambda: next(calls)()

    return {what: turns(what) for what in runs[0]}


def add_time(record, goal: str, what: str, run: Callable, most: float, called: list[float], device: str) -> float:
    replayed = replayed_milliseconds(run, device)
    found = f"{replayed:.3f} ms in a replayed graph, {median(called):.3f} ms a call"
    record.add(goal, what, f"<= {most} ms", found, replayed <= most)
    return replayed


def test_lookup(on, record):
    ours, (most, peers) = f"ours, nearest ({on.name})", LOOKUP
    runs = [variants(z, on.codebook, on.name, 0.0) | anchors(z.flatten(0, 1), on.codebook) for z in on.sets]
    able = record.able("lookup", {what: run for what, run in runs[0].items() if what in (*peers, *ANCHORS)})
    runs = {what: run for what, run in rotating(runs).items() if what in (ours, *able)}
    timings, what = measure(runs, on.device), f"lookup, {on.name}"
    for peer, least in peers.items():
        record.add_ratio("lookup", f"{what}, against {peer}", least, timings, peer, ours)
    known = [name for name in ANCHORS if name in timings]
    best = min(known, key=lambda name: median(timings[name])) if known else " and ".join(ANCHORS)
    record.add_ratio("lookup", f"{what}, against the faster of {' and '.join(ANCHORS)}", 1.3, timings, best, ours)
    replayed = add_time(record, "lookup", what, runs[ours], most, timings[ours], on.device)
    share = 2 * on.count * K * D / (replayed / 1e3) / product_rate(on.device)
    record.add_at_least("lookup", what, 0.43, share, "of the rate of a product")
    expected = ops.vq_nearest(on.sets[0], on.codebook, backend=on.name).flatten()
    for peer in [name for name in (PEER, "flash-kmeans, float32", *ANCHORS) if name in able]:
        found = f"{(able[peer]() == expected).float().mean().item():.4%} exact, in {kernel_of(peer)}"
        record.add("lookup", peer, "for comparison", found, None)


@pytest.mark.parametrize("beta", BOTH)
def test_quantize_and_perturb(beta, on, record):
    most, peers = BOTH[beta]
    ours, what = f"ours, quantise + perturb ({on.name})", f"quantise + perturb, beta {beta}, {on.name}"
    runs = rotating([variants(z, on.codebook, on.name, beta) for z in on.sets])
    able = record.able("quantise + perturb", {key: run for key, run in runs.items() if key in peers})
    runs = {ours: runs[ours]} | able
    timings = measure(runs, on.device)
    for peer, least in peers.items():
        record.add_ratio("quantise + perturb", f"{what}, against {peer}", least, timings, peer, ours)
    add_time(record, "quantise + perturb", what, runs[ours], most, timings[ours], on.device)


def test_table_of_neighbors(on, record):
    settings = {"alpha": 1.0, "beta": 1.0, "delta": DELTA, "seed": 0, "neighbors": "code", "backend": on.name}
    runs = {
        "code": lambda z: ops.vq_perturb(z, on.codebook, **settings),
        "nearest": lambda z: ops.vq_nearest(z, on.codebook, backend=on.name),
    }
    runs = rotating([{what: lambda run=run, z=z: run(z) for what, run in runs.items()} for z in on.sets])
    both = {what: replayed_milliseconds(run, on.device) for what, run in runs.items()}
    what = f"perturbation around the code with its table built anew, {on.name}"
    record.add_at_most("code neighbours", what, 1.1, both["code"] / both["nearest"], "of the lookup", milliseconds=both)
    if on.name != "cuda":  # it takes its table from Triton
        table = {"table": lambda: ops.vq_neighbors(on.codebook[None], on.codebook, DELTA, backend=on.name)}
        called = measure(table, on.device)["table"]
        add_time(record, "code neighbours", "table of neighbours", table["table"], 0.15, called, on.device)


def peak_beyond_outputs(run: Callable[[], tuple], device: str) -> float:
    """MiB at the peak of a call that are not its results; 1 on a CPU, which does not count them."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    outputs = sum(tensor.nbytes for tensor in run())
    if device == "cpu":
        return 1.0
    return (torch.cuda.max_memory_allocated() - before - outputs) / 2**20


def test_memory(on, record):
    (z, *_), codebook = on.sets, on.codebook
    flat = z.flatten(0, 1)

    def authors():
        z_q = authors_quantize(flat, codebook)[1]
        return (authors_perturb(flat, z_q, codebook, 1.0, on.count, DELTA),)

    settings = {"alpha": 1.0, "beta": 1.0, "delta": DELTA, "seed": 0, "backend": on.name}
    ours = peak_beyond_outputs(lambda: ops.vq_quantize(z, codebook, **settings), on.device)
    theirs = peak_beyond_outputs(authors, on.device)
    record.add_at_most("memory", f"memory beyond the outputs, {on.name}", 64, ours, "MiB")
    record.add_at_least("memory", f"the authors' memory, {on.name}", 50, theirs / ours, "times ours")
