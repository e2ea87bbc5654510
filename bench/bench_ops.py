"""Rows P1 to P5 (GPU) and the operations in P20 (CPU) of the goals: lookup and perturbation beside their peers."""

import pytest
import torch

from robustok import ops
from robustok.ops import backend

from .ops_peers import (
    authors_perturb,
    authors_quantize,
    cdist_nearest,
    product,
    topk_on_rows,
    vector_quantize_pytorch,
)
from .recording import measure, ratio, version

K, D, L, DELTA, BETA = 4096, 64, 256, 100, 0.1
PEER = "vector-quantize-pytorch, cosine"
CPU_GOALS = {"cpp": (5.5, 11.0, 0.7), "torch": (4.0, 6.0, 0.5)}  # lookup, quantise + perturb, share of the product


def inputs(N: int, device: str):
    generator = torch.Generator().manual_seed(N)
    z = torch.randn(N // L, L, D, generator=generator).to(device)
    return z, torch.randn(K, D, generator=generator).to(device)


def check_exact(z, codebook, name: str) -> None:
    """No timing without this: the nearest codes of some rows by float64, all perturbed codes by the reference."""
    found, some = ops.vq_nearest(z, codebook, backend=name), slice(None, None, z.shape[0] * L // 100)
    expected = ops.vq_nearest(z.flatten(0, 1)[some], codebook, backend="reference")
    assert torch.equal(found.flatten()[some], expected)
    settings = {"alpha": 1.0, "beta": 1.0, "delta": DELTA, "seed": 0}
    few = z[:2, :50]
    ours, reference = (ops.vq_perturb(few, codebook, backend=b, **settings).indices for b in (name, "reference"))
    assert torch.equal(ours, reference)


def variants(z, codebook, name: str, beta: float):
    """Lookup and quantise + perturb: the authors', ours, and the careful user's."""
    flat, perturbed = z.flatten(0, 1), int(beta * z.shape[0]) * L
    settings = {"alpha": 1.0, "beta": beta, "delta": DELTA, "backend": name}

    def authors_both():
        z_q = authors_quantize(flat, codebook)[1]
        return authors_perturb(flat, z_q, codebook, 1.0, perturbed, DELTA)

    found = {
        "authors, quantise": lambda: authors_quantize(flat, codebook),
        "cdist + argmin": lambda: cdist_nearest(flat, codebook),
        "product alone": lambda: product(flat, codebook),
        f"ours, nearest ({name})": lambda: ops.vq_nearest(z, codebook, backend=name),
        "authors, quantise + perturb": authors_both,
        "top-k on perturbed rows": lambda: topk_on_rows(flat, codebook, perturbed, DELTA),
        f"ours, quantise + perturb ({name})": lambda: ops.vq_quantize(z, codebook, seed=0, **settings),
    }
    if peer := vector_quantize_pytorch(codebook):
        found[PEER] = lambda: peer(flat)
    return found


def agreement(runs, name: str) -> float:
    """Share of tokens for which the installed peer finds the nearest code."""
    ours = runs[f"ours, nearest ({name})"]()
    return (runs[PEER]() == ours.flatten()).float().mean().item()


@pytest.mark.parametrize("N", [4096, 16384])
@pytest.mark.parametrize("name", CPU_GOALS)
def test_cpu(name, N, timed, record):
    reason = backend.reasons(torch.device("cpu"))[name]
    if reason:
        pytest.skip(reason)
    z, codebook = inputs(N if timed else 512, "cpu")
    check_exact(z, codebook, name)
    if not timed:
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    runs = variants(z, codebook, name, BETA)
    timings = measure(runs)
    torch.set_num_threads(threads)
    lookup, both, share = CPU_GOALS[name]
    nearest, fused = f"ours, nearest ({name})", f"ours, quantise + perturb ({name})"
    for what, slower, faster, goal in (
        ("lookup against the authors' quantiser", "authors, quantise", nearest, lookup),
        ("quantise + perturb against the authors'", "authors, quantise + perturb", fused, both),
        ("lookup, share of the product's rate", "product alone", nearest, share),
    ):
        found = ratio(timings, slower, faster)
        text = f"{found['median']:.2f}x ({found['low']:.2f} to {found['high']:.2f})"
        what = f"{what}, {name}, N {N}, 2 threads"
        record.add("P20", what, f">= {goal}x", text, found["median"] >= goal, ratio=found, milliseconds=timings)
    if PEER in runs:
        found, share = ratio(timings, PEER, nearest), agreement(runs, name)
        what = (
            f"lookup against {PEER} {version('vector-quantize-pytorch')} ({share:.2%} exact), {name}, N {N}, 2 threads"
        )
        text = f"{found['median']:.2f}x ({found['low']:.2f} to {found['high']:.2f})"
        record.add("P20", what, ">= 1x", text, found["median"] >= 1, ratio=found)


GPU_GOALS = {
    "P1": ("exact lookup, N 262144", 0.0, {"authors, quantise": 20, "cdist + argmin": 12}),
    "P2": ("quantise + perturb, beta 0.1", 0.1, {"authors, quantise + perturb": 40}),
    "P3": ("quantise + perturb, beta 1", 1.0, {"authors, quantise + perturb": 20}),
}


@pytest.mark.parametrize("goal", [*GPU_GOALS, "P4", "P5"])
def test_gpu(goal, timed, record):
    if not torch.cuda.is_available():
        if timed:
            record.add(goal, "needs a GPU", "see the goals", "this machine has none", None)
        pytest.skip("needs a CUDA device")
    z, codebook = inputs(262_144, "cuda")
    name = backend.choose("auto", z.device).name
    check_exact(z[:16], codebook, name)
    if timed:
        {"P4": table_row, "P5": memory_row}.get(goal, ratio_row)(goal, z, codebook, name, record)


def ratio_row(goal, z, codebook, name, record):
    what, beta, peers = GPU_GOALS[goal]
    ours = f"ours, nearest ({name})" if goal == "P1" else f"ours, quantise + perturb ({name})"
    timings = measure(variants(z, codebook, name, beta), "cuda")
    for peer, least in peers.items():
        found = ratio(timings, peer, ours)
        text = f"{found['median']:.1f}x ({found['low']:.1f} to {found['high']:.1f})"
        record.add(goal, f"{what}, {name}, against {peer}", f">= {least}x", text, found["median"] >= least,
                   ratio=found, milliseconds=timings)  # fmt: skip


def table_row(goal, z, codebook, name, record):
    settings = {"alpha": 1.0, "beta": 1.0, "delta": DELTA, "seed": 0, "neighbors": "code", "backend": name}
    timings = measure(
        {
            "code": lambda: ops.vq_perturb(z, codebook, **settings),
            "nearest": lambda: ops.vq_nearest(z, codebook, backend=name),
        },
        "cuda",
    )
    found = ratio(timings, "code", "nearest")
    what = f"perturbation around the code against the lookup, {name}"
    record.add(goal, what, "<= 1.10x", f"{found['median']:.2f}x", found["median"] <= 1.1, milliseconds=timings)


def memory_row(goal, z, codebook, name, record):
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = ops.vq_quantize(z, codebook, alpha=1.0, beta=1.0, delta=DELTA, seed=0, backend=name)
    outputs = sum(tensor.nbytes for tensor in result)
    extra = (torch.cuda.max_memory_allocated() - before - outputs) / 2**20
    record.add(goal, f"memory beyond the outputs, {name}", "<= 64 MiB", f"{extra:.1f} MiB", extra <= 64)
