"""Random numbers against Random123's published known answers, and the keys that make draws independent of the batch."""

import pytest
import torch

from robustok.core import random as philox

# Random123 1.14, tests/kat_vectors, lines "philox4x32 10": counter, key, result
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
@pytest.mark.parametrize("as_tensors", [False, True])
def test_known_answers(counter, key, answer, as_tensors):
    arguments = [torch.full((67,), word) if as_tensors else word for word in (*counter, *key)]  # vectors and a rest
    for found, word in zip(philox.philox4x32(*arguments), answer, strict=True):
        assert (found == word).all() and found.numel() == (67 if as_tensors else 1)


def test_keyed_words_place_every_bit_of_the_key():
    seed, sample = 0x123456789ABCDEF0, 0x0FEDCBA987654321
    words = philox.keyed_words(seed, philox.NOISE, torch.tensor(sample), 77, inner=5)
    expected = philox.philox4x32(5, (5 << 24) | 77, 0x87654321, 0x0FEDCBA9, 0x9ABCDEF0, 0x12345678)
    assert [int(w) for w in words] == [int(w) for w in expected]


def test_seed_may_be_a_tensor_and_negative_ids_are_keys_too():
    ids, tokens = torch.tensor([[-1], [3]]), torch.arange(4)
    by_int = philox.keyed_words(2**62 + 17, philox.PERTURB, ids, tokens)
    by_tensor = philox.keyed_words(torch.tensor(2**62 + 17), philox.PERTURB, ids, tokens)
    assert by_int[0].shape == (2, 4)
    assert all(torch.equal(a, b) for a, b in zip(by_int, by_tensor, strict=True))
    assert all(((w >= 0) & (w < 2**32)).all() for w in by_int)


def test_uniform_stays_inside_the_open_interval():
    ends = philox.to_uniform(torch.tensor([0, 2**32 - 1]))
    assert ends.dtype == torch.float32
    assert 0 < ends[0] < 1e-7 and 1 - 1e-7 < ends[1] < 1


def test_derived_seeds_are_stable_and_distinct():
    assert philox.derive_seed(0, "perturb", 1) == philox.derive_seed(0, "perturb", 1)
    seeds = {philox.derive_seed(s, name, step) for s in range(5) for name in "ab" for step in range(50)}
    assert len(seeds) == 500 and all(0 <= s < 2**63 for s in seeds)
    assert philox.derive_seed(0, 12) != philox.derive_seed(0, "12") != philox.derive_seed(0, 1, 2)


def test_normal_numbers_are_normal_and_each_samples_own():
    """Moments and distribution of a standard normal; a row depends on its sample id, not on the batch."""
    ids = torch.tensor([5, 3, 9, 2**40 + 1])
    numbers = philox.keyed_normal(7, philox.NOISE, ids, (125, 40))
    assert numbers.shape == (4, 125, 40) and numbers.dtype == torch.float32
    assert torch.equal(numbers[2:3], philox.keyed_normal(7, philox.NOISE, ids[2:3], (125, 40)))
    expected = torch.special.ndtri((torch.arange(20000, dtype=torch.float64) + 0.5) / 20000)
    assert (numbers.double().flatten().sort().values - expected)[50:-50].abs().max() < 0.1
    correlation = torch.corrcoef(
        torch.stack([*numbers.flatten(1), philox.keyed_normal(7, philox.NOISE, ids[:1], (5000,), 1)[0]])
    )
    assert (correlation - torch.eye(5)).abs().max() < 0.06
    assert not torch.equal(numbers, philox.keyed_normal(8, philox.NOISE, ids, (125, 40)))


def test_seeds_for_libraries_of_32_bits():
    """Small seeds stay themselves, so that what was drawn before is drawn again; large ones are not merely cut."""
    assert [philox.narrow_seed(seed) for seed in (0, 7, 2**32 - 1)] == [0, 7, 2**32 - 1]
    large = [philox.narrow_seed(seed) for seed in (2**32, 2**33, philox.MAX_SEED)]
    assert len(set(large)) == 3
    assert all(0 <= seed < 2**32 for seed in large)


def test_a_compiler_sees_one_node_for_the_rounds():
    """Ten rounds written out in full into each other made compilation run for minutes and gigabytes."""
    nodes: list[str] = []

    def count(graph, _inputs):
        nodes.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    def draw(ids):
        return torch.stack(philox.keyed_words(7, 3, ids, torch.arange(4)))

    ids = torch.arange(5)[:, None]
    torch.testing.assert_close(torch.compile(draw, backend=count, fullgraph=True)(ids), draw(ids), rtol=0, atol=0)
    assert sum("philox" in name for name in nodes) == 1 and len(nodes) < 30
