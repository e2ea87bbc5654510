"""The quantiser for a network of one's own: values, losses, k-means, restarts, perturbation, and that it resumes."""

import pytest
import torch

from robustok import VectorQuantizer, from_grid, to_grid, vq_perturb
from robustok.core.annealing import anneal_ratio
from robustok.core.random import derive_seed


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_grids_and_back():
    z = latents(2, 3, 4, 6)
    rows = from_grid(z)
    assert torch.equal(rows[1, 2 * 6 + 5], z[1, :, 2, 5])
    assert torch.equal(to_grid(rows, 4), z) and to_grid(rows, 4).is_contiguous()
    assert to_grid(rows[:, :16]).shape == (2, 3, 4, 4)
    for call in (lambda: to_grid(rows), lambda: to_grid(rows, 5), lambda: to_grid(z), lambda: from_grid(rows)):
        with pytest.raises(ValueError, match="expected"):
            call()


def test_values_losses_and_gradients_by_brute_force():
    torch.manual_seed(0)
    vq = VectorQuantizer(dim=4, codebook_size=16, codebook_weight=0.5, commitment_weight=0.25)
    x = latents(2, 5, 4).requires_grad_()
    quantized, indices, loss = vq(x)
    distances = (x.double()[:, :, None] - vq.codebook.double()).square().sum(-1)
    assert torch.equal(indices, distances.argmin(-1))
    codes = vq.codebook[indices]
    torch.testing.assert_close(quantized, codes)
    error = (x.double() - codes.double()).square().mean()
    torch.testing.assert_close(loss.double(), 0.75 * error)
    (quantized.sum() + loss).backward()
    torch.testing.assert_close(x.grad, 1 + 0.25 * 2 * (x - codes).detach() / x.numel())
    expected = torch.zeros_like(vq.codebook)
    expected.index_add_(0, indices.flatten(), (0.5 * 2 * (codes - x).detach() / x.numel()).flatten(0, 1))
    torch.testing.assert_close(vq.codebook.grad, expected)


def test_convolutional_latents_are_told_by_their_dimensions():
    vq = VectorQuantizer(dim=4, codebook_size=16, similarity="cosine").eval()
    z = latents(2, 4, 3, 5)
    grid, rows = vq(z), vq(from_grid(z))
    assert torch.equal(grid.quantized, to_grid(rows.quantized, 3)) and torch.equal(grid.loss, rows.loss)
    assert torch.equal(grid.indices, rows.indices.view(2, 3, 5))
    torch.testing.assert_close(vq.lookup(grid.indices.tolist()), grid.quantized)
    with pytest.raises(ValueError, match=r"x: found shape \(2, 3\), expected \(B, L, 4\) or \(B, 4, H, W\)"):
        vq(torch.zeros(2, 3))


def test_perturbation_is_that_of_vq_perturb_annealed_and_only_in_training():
    vq = VectorQuantizer(4, 16, alpha=0.8, beta=0.5, delta=8, anneal=(1, 3), anneal_to=0.25, seed=7)
    x, ids = latents(4, 20, 4), torch.tensor([9, 4, 1, 3])
    for step in range(5):
        ratio = anneal_ratio(step, start=1, end=3, end_ratio=0.25)
        draw = {"alpha": 0.8 * ratio, "beta": 0.5, "delta": int(8 * ratio), "seed": derive_seed(7, "perturb", step)}
        expected = vq_perturb(x, vq.codebook, sample_ids=ids, similarity="l2", **draw)
        found = vq(x, ids)
        assert torch.equal(found.quantized, expected.z_q) and torch.equal(found.indices, expected.nearest)
        assert not torch.equal(expected.indices, expected.nearest)
    vq.eval()
    torch.testing.assert_close(vq(x).quantized, vq.lookup(vq(x).indices))
    assert vq.steps == 5


def test_kmeans_start_finds_clusters():
    centres = 10 * torch.eye(4)
    x = (centres.repeat(8, 1) + 0.1 * latents(32, 4)).view(2, 16, 4)
    vq = VectorQuantizer(4, 4, kmeans_start=True, restart_after=1, seed=3)
    for _ in range(6):  # codes that fell on one cluster leave it
        vq(x)
    found = vq(x).indices.flatten().view(8, 4)
    assert all(len(found[:, i].unique()) == 1 for i in range(4)) and len(found[0].unique()) == 4
    with pytest.raises(ValueError, match="found 2 latents in the batch, expected at least the 4 codes"):
        vq.start(x[:1, :2])


def test_kmeans_is_lloyds():
    x = latents(1, 40, 2)
    vq = VectorQuantizer(2, 3)
    vq.start(x)
    nearest = (x[0, :, None].double() - vq.codebook.double()).square().sum(-1).argmin(-1)
    means = torch.stack([x[0][nearest == k].double().mean(0) for k in range(3)])
    torch.testing.assert_close(vq.codebook.double(), means, rtol=0, atol=0.2)  # next to a fixed point


def test_dead_codes_are_set_on_latents():
    vq = VectorQuantizer(2, 8, restart_after=2)
    with torch.no_grad():
        vq.codebook.copy_(torch.cat([torch.zeros(4, 2), torch.full((4, 2), 100.0)]))
        vq.codebook[1:4] += 50
    x = latents(2, 6, 2)
    assert vq.usage() == 0
    for _ in range(2):
        vq(x)
    assert vq.usage() == 1 / 8 and (vq.codebook[1:] >= 50).all()
    vq(x)
    assert all((row == x.view(-1, 2)).all(-1).any() for row in vq.codebook[1:])
    assert vq.usage() > 1 / 8


def test_training_resumes_from_state_dict():
    settings = {"alpha": 0.5, "delta": 4, "anneal": (2, 6), "kmeans_start": True, "restart_after": 2}

    def train(vq: VectorQuantizer, steps: range) -> torch.Tensor:
        for step in steps:
            quantized, _, loss = vq(latents(2, 16, 4, seed=step))
            (gradient,) = torch.autograd.grad(loss + quantized.square().mean(), vq.codebook)
            vq.codebook.data -= 0.1 * gradient
        return quantized

    before = torch.get_rng_state()
    whole, half, rest = (VectorQuantizer(4, 16, **settings) for _ in range(3))
    state = torch.get_rng_state()
    train(half, range(4))
    rest.load_state_dict(half.state_dict())
    assert torch.equal(train(whole, range(8)), train(rest, range(4, 8))) and torch.equal(whole.codebook, rest.codebook)
    assert torch.equal(state, torch.get_rng_state()) and not torch.equal(before, state)  # weights alone draw from it


@pytest.mark.parametrize("wrong", [{"alpha": 2}, {"delta": 17}, {"restart_after": 0}, {"anneal_to": -1}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match="found"):
        VectorQuantizer(4, 16, **wrong)
