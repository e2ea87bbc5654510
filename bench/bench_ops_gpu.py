"""Lookup and perturbation on a GPU beside their peers, on both backends made for it.

Inputs rotate over more than the cache holds; the codebook stays, as it does in use. The time of a call is taken twice:
as it is, which is what the peers are compared by, and inside a replayed graph, where launching costs the host nothing:
goals in milliseconds, and between two of our own operations, are for the second.
"""

import itertools
from collections.abc import Callable

import pytest
import torch

from robustok import ops
from robustok.ops.decoding.measured_choice import graph_milliseconds
from robustok.ops.vq.backends import registry

from .bench_ops import BETA, DELTA, PEER, D, K, check_exact, inputs, variants
from .ops_peers import authors_perturb, authors_quantize, flash_kmeans
from .recording import measure, product_rate

N, SETS = 262_144, 3  # 201 MB of inputs in turn
# milliseconds, and at least how many times as fast as each peer
LOOKUP = (
    0.40,
    {"authors, quantise": 20, "cdist + argmin": 12, "flash-kmeans, float16": 1.5, "flash-kmeans, float32": 3, PEER: 1},
)
BOTH = {  # by beta, the share of images perturbed
    BETA: (0.6, {"authors, quantise + perturb": 40, "top-k on perturbed rows": 1}),
    1.0: (1.5, {"authors, quantise + perturb": 20, "top-k on perturbed rows": 1}),
}


@pytest.fixture(params=["triton", "cuda"])
def name(request, timed, record) -> str:
    if not torch.cuda.is_available():
        if timed:
            record.add_not_measured("operations", f"{request.node.name} needs a GPU", "this machine has none")
        pytest.skip("needs a CUDA device")
    if reason := registry.reasons(torch.device("cuda"))[request.param]:
        if timed:
            record.add_not_measured("operations", request.node.name, reason)
        pytest.skip(reason)
    return request.param


@pytest.fixture
def sets(name) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Input sets z and one codebook, checked first, where the memory of the next results holds what none may hold."""
    codebook = inputs(N, "cuda")[1]
    found = [inputs(N, "cuda", seed)[0] for seed in range(SETS)]
    for size in (1 << 28, 1 << 24, *[1 << 16] * 16):  # large and small: the allocator keeps them apart
        torch.full((size,), torch.nan, device="cuda")
    check_exact(found[0], codebook, name)
    return found, codebook


def rotating(runs: list[dict[str, Callable]]) -> dict[str, Callable]:
    """One function a variant, each call of which is that of the next input set."""

    def turns(what: str) -> Callable:
        calls = itertools.cycle([run[what] for run in runs])
        return lambda: next(calls)()

    return {what: turns(what) for what in runs[0]}


def add_ratios(record, goal: str, what: str, timings: dict, ours: str, peers: dict[str, float]) -> None:
    for peer, least in peers.items():
        if peer in timings:
            record.add_ratio(goal, f"{what} against {peer}", least, timings, peer, ours)
        else:
            record.add(goal, f"{what} against {peer}", f">= {least}x", "not installed", None)


def add_time(record, goal: str, what: str, run: Callable, most: float, called: list[float]) -> float:
    replayed = graph_milliseconds(run)
    found = f"{replayed:.3f} ms in a replayed graph, {sorted(called)[len(called) // 2]:.3f} ms a call"
    record.add(goal, what, f"<= {most} ms", found, replayed <= most)
    return replayed


def test_lookup(name, sets, timed, record):
    if not timed:
        return
    inputs, codebook = sets
    ours, (most, peers) = f"ours, nearest ({name})", LOOKUP
    runs = rotating([variants(z, codebook, name, 0.0) | flash_kmeans(z.flatten(0, 1), codebook) for z in inputs])
    runs = {what: run for what, run in runs.items() if what in (ours, *peers)}
    timings = measure(runs, "cuda")
    add_ratios(record, "lookup", f"lookup, {name},", timings, ours, peers)
    replayed = add_time(record, "lookup", f"lookup, {name}", runs[ours], most, timings[ours])
    share = 2 * N * K * D / (replayed / 1e3) / product_rate()
    record.add("lookup", f"lookup, {name}, share of the rate of a product", ">= 0.43", f"{share:.2f}", share >= 0.43)
    expected = ops.vq_nearest(inputs[0], codebook, backend=name).flatten()
    for what, run in flash_kmeans(inputs[0].flatten(0, 1), codebook).items():
        found = f"{(run() == expected).float().mean().item():.4%} exact"
        record.add("lookup", what, "for comparison", found, None)


@pytest.mark.parametrize("beta", BOTH)
def test_quantize_and_perturb(beta, name, sets, timed, record):
    if not timed:
        return
    inputs, codebook = sets
    most, peers = BOTH[beta]
    ours, what = f"ours, quantise + perturb ({name})", f"quantise + perturb, beta {beta}, {name}"
    runs = rotating([variants(z, codebook, name, beta) for z in inputs])
    runs = {key: run for key, run in runs.items() if key in (ours, *peers)}
    timings = measure(runs, "cuda")
    add_ratios(record, "quantise + perturb", f"{what},", timings, ours, peers)
    add_time(record, "quantise + perturb", what, runs[ours], most, timings[ours])


def test_table_of_neighbors(name, sets, timed, record):
    if not timed:
        return
    inputs, codebook = sets
    settings = {"alpha": 1.0, "beta": 1.0, "delta": DELTA, "seed": 0, "neighbors": "code", "backend": name}
    runs = {
        "code": lambda z: ops.vq_perturb(z, codebook, **settings),
        "nearest": lambda z: ops.vq_nearest(z, codebook, backend=name),
    }
    runs = rotating([{what: lambda run=run, z=z: run(z) for what, run in runs.items()} for z in inputs])
    code, nearest = graph_milliseconds(runs["code"]), graph_milliseconds(runs["nearest"])
    what, found = f"perturbation around the code against the lookup, {name}", code / nearest
    record.add(
        "code neighbours",
        what,
        "<= 1.10x",
        f"{found:.2f}x",
        found <= 1.1,
        milliseconds={"code": code, "nearest": nearest},
    )
    if name == "triton":  # the other takes its table from it
        table = {"table": lambda: ops.vq_neighbors(codebook, codebook, DELTA, backend=name)}
        add_time(
            record,
            "code neighbours",
            "table of neighbours",
            table["table"],
            0.15,
            measure(table, "cuda")["table"],
        )


def peak_beyond_outputs(run: Callable[[], tuple]) -> float:
    """MiB at the peak of a call that are not its results."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    outputs = sum(tensor.nbytes for tensor in run())
    return (torch.cuda.max_memory_allocated() - before - outputs) / 2**20


def test_memory(name, sets, timed, record):
    if not timed:
        return
    (z, *_), codebook = sets
    flat = z.flatten(0, 1)

    def authors():
        z_q = authors_quantize(flat, codebook)[1]
        return (authors_perturb(flat, z_q, codebook, 1.0, N, DELTA),)

    settings = {"alpha": 1.0, "beta": 1.0, "delta": DELTA, "seed": 0, "backend": name}
    ours, theirs = peak_beyond_outputs(lambda: ops.vq_quantize(z, codebook, **settings)), peak_beyond_outputs(authors)
    record.add("memory", f"memory beyond the outputs, {name}", "<= 64 MiB", f"{ours:.1f} MiB", ours <= 64)
    found = theirs / ours
    record.add("memory", f"the authors' memory against ours, {name}", ">= 50x", f"{found:.0f}x", found >= 50)
