"""The definitions of the decoding operations against loops over single numbers."""

import math

import numpy as np
import pytest
import torch

from robustok.core.random import SAMPLE, keyed_words
from robustok.ops.decoding import reference


def test_attention():
    torch.manual_seed(0)
    caches = torch.randn(2, 2, 3, 9, 5)
    caches[:, :, :, 6:] = torch.nan  # places that no query sees are not read
    query, places = torch.randn(2, 3, 4, 5), torch.tensor([[0, 5, 2, 1], [3, 0, 4, 5]])
    found = reference.decode_attention(query, *caches, places)
    assert found.dtype == torch.float64
    q, (k, v) = query.double().numpy(), caches.double().numpy()
    for s, h, n in np.ndindex(2, 3, 4):
        seen = range(places[s, n] + 1)
        weights = [math.exp(q[s, h, n] @ k[s, h, t] / math.sqrt(5)) for t in seen]
        expected = sum(w * v[s, h, t] for w, t in zip(weights, seen, strict=True)) / sum(weights)
        np.testing.assert_allclose(found[s, h, n], expected, rtol=1e-12)


def likely(row: list[float], top_k: int, top_p: float) -> list[bool]:
    """Which entries may be drawn: the top_k largest, of those the fewest that reach top_p, and what ties with them."""
    kept = sorted(row, reverse=True)[: top_k or None]
    kept = [x for x in row if x >= kept[-1]]
    weights = {x: math.exp(x) for x in kept}
    total, reached, least = sum(weights[x] for x in kept), 0.0, math.inf
    for x in sorted(kept, reverse=True):
        if top_p < 1 and reached >= top_p * total:
            break
        reached, least = reached + weights[x], x
    return [x >= least for x in row]


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (1, 1.0), (4, 1.0), (0, 0.3), (0, 0.9), (6, 0.5), (99, 0.7)])
def test_likely_entries(top_k, top_p):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20, 11, generator=generator)
    logits[::2] = logits[::2].mul(2).round().div(2)  # many entries tie
    kept = reference.keep_likely(logits, top_k, top_p)
    expected = [likely(row, top_k, top_p) for row in logits.double().tolist()]
    assert (kept > -torch.inf).tolist() == expected
    assert torch.equal(kept[kept > -torch.inf], logits[kept > -torch.inf])


def test_gumbel_noise_takes_one_word_an_entry():
    ids, steps = torch.tensor([5, 2**40, -7]), torch.tensor([[0], [3], [255]])
    noise = reference.gumbel_noise(9, ids, steps, 10)
    for image, v in np.ndindex(3, 10):
        word = keyed_words(9, SAMPLE, ids[image], steps[image, 0], v // 4)[v % 4].item()
        uniform = (word // 512 + 0.5) / 2**23
        assert noise[image, v].item() == pytest.approx(-math.log(-math.log(uniform)), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("is_guided", [True, False])
def test_guided_sample(is_guided):
    torch.manual_seed(2)
    logits, ids, steps = torch.randn(6 if is_guided else 3, 13), torch.tensor([4, 1, 2**50]), torch.tensor([7])
    scale, seed = torch.tensor([1.0, 2.5, 4.0]), torch.tensor(11)
    found = reference.guided_sample(logits, scale, 0.8, 5, 0.9, seed, ids, steps)
    noise = reference.gumbel_noise(seed, ids, steps[:, None], 13)
    for image in range(3):
        c, u = logits[image].double(), logits[image + 3 if is_guided else image].double()
        guided = ((u + scale[image].item() * (c - u)) / 0.8).tolist()
        kept = likely(guided, 5, 0.9)
        values = [g + noise[image, v].item() if kept[v] else -math.inf for v, g in enumerate(guided)]
        assert found[image] == int(np.argmax(values))
