"""Which tokens are perturbed and how far: keyed draws, their statistics, and the images they apply to."""

import numpy as np
import pytest
import torch
from scipy import stats

from robustok import ops
from robustok.ops import Draw
from robustok.ops.vq.draws import draw_ranks

from .table import SIMILARITIES, make, order


def draw(alpha=1.0, delta=100, seed=0):
    values = torch.tensor(alpha, dtype=torch.float64), torch.tensor(delta), torch.tensor(seed)
    return Draw(*values, sample_ids=torch.arange(0), num_images=0)


def test_rate_and_uniform_ranks_over_a_million_draws():
    delta, alpha = 90, 0.7
    tokens = torch.arange(1024)
    every = draw_ranks(draw(1.0, delta), torch.arange(1024), tokens).flatten()
    counts = every.bincount(minlength=delta).numpy()
    assert counts.sum() == 1 << 20 and len(counts) == delta
    assert stats.chisquare(counts).pvalue > 1e-4
    some = draw_ranks(draw(alpha, delta), torch.arange(1024), tokens).flatten()
    changed = (some > 0).sum().item()  # rank 0 changes nothing
    assert stats.binomtest(changed, 1 << 20, alpha * (1 - 1 / delta)).pvalue > 1e-4


@pytest.mark.parametrize("name", ["torch", "cpp"])
def test_picks_are_uniform_on_the_nearest_codes(name):
    """One latent in 5 images of 200 tokens: its perturbed codes cover its delta nearest evenly."""
    latent, codebook = make((1, 1, 6, 50, 10))
    result = ops.vq_perturb(
        latent.expand(5, 200, 6), codebook, alpha=1, beta=1, delta=10, seed=8, backend=name, neighbors="latent"
    )
    near = order(latent, codebook)[0, :10]
    counts = result.indices.flatten().bincount(minlength=50).numpy()
    assert counts[near].sum() == 5 * 200
    assert stats.chisquare(counts[near]).pvalue > 1e-4


def test_masks_are_nested_in_alpha_and_ranks_scale_with_delta():
    images, tokens = torch.arange(8), torch.arange(256)
    small, large = (draw_ranks(draw(alpha), images, tokens) for alpha in (0.3, 0.8))
    assert ((small == 0) | (small == large)).all() and (small > 0).sum() < (large > 0).sum()
    narrow, wide = (draw_ranks(draw(1.0, delta), images, tokens) for delta in (50, 100))
    assert torch.equal(narrow, wide // 2)


@pytest.mark.parametrize("parts", [[8], [4, 4], [1, 2, 5], [1] * 8])
def test_batch_splits_draw_the_same(name, parts):
    z, codebook = make((8, 3, 5, 60, 30))
    ids = torch.tensor([5, 2**40, 0, -7, 9, 11, 2**62, 13])
    arguments = {"alpha": 0.6, "beta": 1.0, "delta": 30, "seed": 2**60 + 3, "backend": name}
    whole = ops.vq_perturb(z, codebook, sample_ids=ids, **arguments)
    split = [
        ops.vq_perturb(part, codebook, sample_ids=part_ids, **arguments).indices
        for part, part_ids in zip(z.split(parts), ids.split(parts), strict=True)
    ]
    assert torch.equal(whole.indices, torch.cat(split))
    assert not torch.equal(whole.indices, whole.nearest)


def test_backends_draw_alike(name):
    z, codebook = make((4, 5, 7, 200, 50), seed=4)
    arguments = {"alpha": 0.37, "beta": 0.75, "delta": 50, "seed": 99}
    for neighbors in ("latent", "code"):
        ours = ops.vq_perturb(z, codebook, neighbors=neighbors, backend=name, **arguments)
        reference = ops.vq_perturb(z, codebook, neighbors=neighbors, backend="reference", **arguments)
        assert torch.equal(ours.indices, reference.indices)


def test_table_of_code_neighbors_serves_more_tokens_than_codes(name):
    z, codebook = make((2, 60, 4, 25, 9))
    result = ops.vq_perturb(z, codebook, alpha=1, beta=1, delta=9, seed=1, neighbors="code", backend=name)
    sets = order(codebook, codebook)[:, :9]
    assert all(i in sets[k] for i, k in zip(result.indices.flatten(), result.nearest.flatten(), strict=True))


@pytest.mark.parametrize(
    ("beta", "num_images", "expected"), [(0.5, None, 2), (0.1, None, 0), (1.0, 3, 3), (0.0, 1, 1), (1.0, 0, 0)]
)
def test_only_the_first_images_are_perturbed(name, beta, num_images, expected):
    z, codebook = make((5, 8, 6, 80, 40))
    arguments = {"alpha": 1.0, "beta": beta, "delta": 40, "seed": 0, "num_images": num_images, "backend": name}
    result = ops.vq_perturb(z, codebook, **arguments)
    changed = (result.indices != result.nearest).any(1)
    assert changed.tolist() == [True] * expected + [False] * (5 - expected)


def test_delta_one_and_alpha_zero_change_nothing(name):
    z, codebook = make((3, 20, 6, 80, 40))
    for alpha, delta in ((1.0, 1), (0.0, 40)):
        result = ops.vq_perturb(z, codebook, alpha=alpha, beta=1.0, delta=delta, seed=0, backend=name)
        assert torch.equal(result.indices, result.nearest)


def test_global_generator_is_untouched(name):
    z, codebook = make((2, 9, 4, 30, 5))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    ops.vq_quantize(z, codebook, alpha=0.5, beta=1.0, delta=5, seed=0, backend=name)
    assert torch.equal(before, torch.get_rng_state())


NOT_FINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": -float("inf")}


@pytest.mark.parametrize("value", NOT_FINITE.values(), ids=NOT_FINITE)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_rows_that_are_not_finite(name, value, similarity):
    """Order by index, indices in range, the same on every backend, and z_q tells."""
    z, codebook = make((2, 6, 5, 40, 20))
    z[1, 2, 3] = value
    arguments = {"alpha": 1.0, "beta": 1.0, "delta": 20, "seed": 0, "similarity": similarity}
    result = ops.vq_quantize(z, codebook, backend=name, **arguments)
    reference = ops.vq_quantize(z, codebook, backend="reference", **arguments)
    assert torch.equal(result.indices, reference.indices) and torch.equal(result.nearest, reference.nearest)
    assert result.nearest[1, 2] == 0
    assert result.z_q[1, 2].isnan().any() and result.z_q_clean[1, 2].isnan().any()
    assert result.z_q.isnan().any(2).sum() == 1 and not result.vq_loss.isfinite()
    assert np.array_equal(result.nearest.flatten(), order(z, codebook, similarity)[:, 0])


@pytest.mark.parametrize("value", NOT_FINITE.values(), ids=NOT_FINITE)
def test_codes_that_are_not_finite_never_win(name, value):
    z, codebook = make((2, 2, 5, 40, 20))
    codebook[7, 1] = codebook[0, 0] = value
    orders = order(z, codebook)
    assert np.array_equal(ops.vq_nearest(z, codebook, backend=name).flatten(), orders[:, 0])
    assert np.array_equal(ops.vq_neighbors(z, codebook, 40, backend=name).flatten(0, 1), orders)
    result = ops.vq_perturb(z, codebook, alpha=1, beta=1, delta=40, seed=0, backend=name)
    reference = ops.vq_perturb(z, codebook, alpha=1, beta=1, delta=40, seed=0, backend="reference")
    assert torch.equal(result.indices, reference.indices)
    assert ops.vq_nearest(z, torch.full_like(codebook, value), backend=name).eq(0).all()


def test_zero_rows_are_compared_as_zero(name):
    z, codebook = make((1, 5, 5, 40, 20))
    z[0, 2] = 0
    codebook[3] = 0  # at distance 0 of the zero row, and only there the nearest
    found = ops.vq_nearest(z, codebook, backend=name)
    assert found[0, 2] == 3 and np.array_equal(found.flatten(), order(z, codebook)[:, 0])
