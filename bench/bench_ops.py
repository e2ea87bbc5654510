"""Lookup and perturbation on a CPU beside their peers."""

import pytest
import torch

from robustok import ops
from robustok.core.machine import version_of
from robustok.ops.vq.backends import registry

from .ops_peers import (
    authors_perturb,
    authors_quantize,
    cdist_nearest,
    product,
    topk_on_rows,
    vector_quantize_pytorch,
)
from .recording import measure

K, D, L, DELTA, BETA = 4096, 64, 256, 100, 0.1
PEER = "vector-quantize-pytorch, cosine"
CPU_GOALS = {"cpp": (5.5, 11.0, 0.7), "torch": (4.0, 6.0, 0.5)}  # lookup, quantise + perturb, share of the product


def inputs(N: int, device: str, seed: int = 0):
    generator = torch.Generator().manual_seed(N + seed)
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
    reason = registry.reasons(torch.device("cpu"))[name]
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
    for goal, what, slower, faster, least in (
        ("lookup", "lookup against the authors' quantiser", "authors, quantise", nearest, lookup),
        ("quantise + perturb", "quantise + perturb against the authors'", "authors, quantise + perturb", fused, both),
        ("lookup", "lookup, share of the product's rate", "product alone", nearest, share),
    ):
        record.add_ratio(goal, f"{what}, {name}, N {N}, 2 threads", least, timings, slower, faster)
    if PEER in runs:
        exact, peer = agreement(runs, name), f"{PEER} {version_of('vector-quantize-pytorch')}"
        what = f"lookup against {peer} ({exact:.2%} exact), {name}, N {N}, 2 threads"
        record.add_ratio("lookup", what, 1, timings, PEER, nearest)
