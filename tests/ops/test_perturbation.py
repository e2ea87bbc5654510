"""Every kind of perturbation against its definition, written out in float64 token by token."""

import pytest
import torch
from torch.nn import functional as F

from robustok import perturb, vq_perturb
from robustok.core.random import NOISE, PERTURB, keyed_normal, keyed_words
from robustok.ops import decoding_gradient
from robustok.ops.perturbation import CODE_KINDS, KINDS, image_strengths

B, L, D, K = 6, 10, 5, 30
IDS = torch.tensor([3, 1 << 40, 8, 0, 77, 12])
OF_KIND = {
    "neighbor": {"delta": 7},
    "uniform": {},
    "adversarial": {"delta": 7},
    "gaussian": {"strength": 0.4},
    "interpolate": {"strength": 0.4},
    "mask": {},
}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Z, CODES, GRADIENT = draw(B, L, D), draw(K, D, seed=1), draw(B, L, D, seed=2)


def call(kind: str, z=Z, codebook=CODES, **given):
    """`perturb` with what the kind needs, and the gradient of these images' latents."""
    given = {"seed": 5, "alpha": 0.6, "sample_ids": IDS, **OF_KIND[kind], **given}
    if kind == "adversarial":
        given.setdefault("gradient", GRADIENT)
    return perturb(z, codebook, kind, **given)


def rows(x: torch.Tensor, similarity: str) -> torch.Tensor:
    """What is compared, rounded to float32 once, as the definition has it."""
    x = x.double()
    return (x / x.norm(dim=-1, keepdim=True) if similarity == "cosine" else x).float().double()


def ordered(query: torch.Tensor, codes: torch.Tensor, similarity: str) -> list[int]:
    """All codes by distance from one vector."""
    far = -(codes @ query) if similarity == "dot" else (codes - query).square().sum(1)
    return far.argsort(stable=True).tolist()


@pytest.mark.parametrize("similarity", ["cosine", "l2", "dot"])
@pytest.mark.parametrize("neighbors", ["latent", "code"])
@pytest.mark.parametrize("kind", CODE_KINDS)
def test_codes_are_those_of_the_definition(kind, neighbors, similarity):
    near = {} if kind == "uniform" else {"neighbors": neighbors}
    out = call(kind, similarity=similarity, num_images=4, **near)
    u, e = rows(Z, similarity), rows(CODES, similarity)
    for b in range(B):
        for token in range(L):
            w0, w1, _, _ = (int(w) for w in keyed_words(5, PERTURB, IDS[b], token))
            nearest = ordered(u[b, token], e, similarity)[0]
            chosen = b < 4 and w0 < 0.6 * 2**32
            index = nearest
            if chosen and kind == "uniform":
                index = w1 * K >> 32
            elif chosen:
                around = u[b, token] if neighbors == "latent" else e[nearest]
                candidates = [nearest, *ordered(around, e, similarity)[1:7]]
                gains = [float((e[k] - e[nearest]) @ GRADIENT[b, token].double()) for k in candidates]
                index = candidates[gains.index(max(gains)) if kind == "adversarial" else w1 * 7 >> 32]
            assert (out.nearest[b, token], out.indices[b, token]) == (nearest, index), (b, token)
            assert bool(out.chosen[b, token]) == chosen
            torch.testing.assert_close(out.z_q[b, token].double(), e[index], rtol=1e-5, atol=1e-6)
    assert (out.indices != out.nearest).any()


@pytest.mark.parametrize("codebook", [None, CODES])
@pytest.mark.parametrize("kind", ["gaussian", "interpolate", "mask"])
def test_noise_and_masks_are_those_of_the_definition(kind, codebook):
    t = torch.linspace(0, 1, B)
    out = call(kind, codebook=codebook, num_images=5, **({} if kind == "mask" else {"strength": t}))
    noise = keyed_normal(5, NOISE, IDS, (L, D)).double()
    e = rows(CODES, "cosine")
    for b in range(B):
        for token in range(L):
            x = Z[b, token].double()
            if codebook is not None:
                nearest = ordered(rows(x, "cosine"), e, "cosine")[0]
                x = e[nearest]
                assert out.indices[b, token] == (-1 if out.chosen[b, token] else nearest)
            if out.chosen[b, token]:
                kept = {"gaussian": 1.0, "interpolate": 1 - t[b].double(), "mask": 0.0}[kind]
                x = kept * x + (0 if kind == "mask" else t[b].double() * noise[b, token])
            torch.testing.assert_close(out.z_q[b, token].double(), x, rtol=1e-5, atol=1e-6)
    assert out.chosen[:5].any() and not out.chosen[5:].any()
    assert codebook is not None or out.indices is out.nearest is None


def test_the_paper_s_kind_is_vq_perturb_to_the_bit():
    out = call("neighbor", beta=0.7, similarity="l2", neighbors="code")
    settings = {"alpha": 0.6, "beta": 0.7, "delta": 7, "seed": 5, "sample_ids": IDS, "neighbors": "code"}
    same = vq_perturb(Z, CODES, similarity="l2", **settings)
    assert all(torch.equal(getattr(out, name), getattr(same, name)) for name in ("z_q", "indices", "nearest"))


def test_all_kinds_choose_the_same_tokens():
    chosen = [call(kind, beta=0.7).chosen for kind in KINDS]
    assert all(torch.equal(chosen[0], other) for other in chosen)
    assert 0.4 < chosen[0][:4].float().mean() < 0.8 and not chosen[0][4:].any()
    fewer = call("mask", alpha=0.3, beta=0.7).chosen
    assert (fewer <= chosen[0]).all() and fewer.sum() < chosen[0].sum()


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_perturbed_the_same_in_any_batch(kind):
    whole = call(kind)
    for part in (slice(0, 2), slice(2, 6)):
        given = {"gradient": GRADIENT[part]} if kind == "adversarial" else {}
        own = call(kind, z=Z[part], sample_ids=IDS[part], **given)
        torch.testing.assert_close(own.z_q, whole.z_q[part], rtol=0, atol=1e-6)
        assert torch.equal(own.indices, whole.indices[part])
    assert not torch.equal(whole.z_q, call(kind, seed=6).z_q)


def test_uniform_codes_are_uniform():
    ids = torch.arange(400)
    z = draw(400, 50, D, seed=3)
    counts = torch.bincount(call("uniform", z=z, sample_ids=ids, alpha=1.0).indices.flatten(), minlength=K)
    assert (counts.double() / (20000 / K) - 1).abs().max() < 0.2  # 5 standard deviations are 0.19


@pytest.mark.parametrize(("kind", "strength"), [("gaussian", 0.5), ("gaussian", 2.0), ("interpolate", 0.3)])
def test_noise_has_the_stated_variance(kind, strength):
    z = torch.full((200, 40, 10), 3.0)
    out = call(kind, z=z, codebook=None, sample_ids=torch.arange(200), alpha=0.5, strength=strength)
    noisy, clean = out.z_q[out.chosen], out.z_q[~out.chosen]
    assert (clean == 3).all()
    assert noisy.var().item() == pytest.approx(strength**2, rel=0.03)
    kept = 1 if kind == "gaussian" else 1 - strength
    assert noisy.mean().item() == pytest.approx(3 * kept, abs=0.03 * strength)


def test_strengths_of_images_are_uniform_up_to_the_largest():
    t = image_strengths(0.8, 5, torch.arange(4000))
    assert 0 < t.min() < 0.01 and 0.79 < t.max() < 0.8 and t.mean().item() == pytest.approx(0.4, abs=0.02)
    assert torch.equal(t[7:9], image_strengths(0.8, 5, torch.arange(7, 9)))


@pytest.mark.parametrize("similarity", ["cosine", "l2", "dot"])
@pytest.mark.parametrize("kind", KINDS)
def test_with_a_codebook_the_gradient_is_straight_through(kind, similarity):
    z, codebook = Z.clone().requires_grad_(), CODES.clone().requires_grad_()
    (call(kind, z=z, codebook=codebook, similarity=similarity).z_q * GRADIENT).sum().backward()
    same = Z.double().requires_grad_()
    u = same / same.norm(dim=-1, keepdim=True) if similarity == "cosine" else same
    (u * GRADIENT).sum().backward()
    torch.testing.assert_close(z.grad.double(), same.grad, rtol=1e-4, atol=1e-5)
    assert codebook.grad is None


@pytest.mark.parametrize(("kind", "kept"), [("gaussian", 1.0), ("interpolate", 0.6), ("mask", 0.0)])
def test_without_a_codebook_the_gradient_is_that_of_the_sum(kind, kept):
    z = Z.clone().requires_grad_()
    out = call(kind, z=z, codebook=None)
    (out.z_q * GRADIENT).sum().backward()
    torch.testing.assert_close(z.grad, GRADIENT * torch.where(out.chosen[..., None], kept, 1.0))


def test_the_adversary_hurts_a_decoder_more_than_a_random_neighbour():
    """A small random decoder: its own error, image by image, and on average over the images far more."""
    weight = draw(L * D, 60, seed=4) / 20
    decode = lambda z_q: torch.tanh(z_q.flatten(1) @ weight)  # noqa: E731
    z = draw(64, L, D, seed=5)
    clean = perturb(z, CODES, "mask", alpha=0.0, seed=0).z_q
    images = decode(clean) + 0.3 * draw(64, 60, seed=6)
    gradient = decoding_gradient(decode, clean, images)
    x = clean.double().requires_grad_()
    (torch.tanh(x.flatten(1) @ weight.double()) - images.double()).square().sum().backward()
    torch.testing.assert_close(gradient.double(), x.grad, rtol=1e-3, atol=1e-4)
    error = {}
    for kind, extra in (("neighbor", {}), ("adversarial", {"gradient": gradient})):
        moved = perturb(z, CODES, kind, alpha=0.2, delta=5, seed=1, **extra)
        error[kind] = (decode(moved.z_q) - images).square().sum(1)
    before = (decode(clean) - images).square().sum(1)
    assert (error["adversarial"] - before).mean() > 2 * (error["neighbor"] - before).mean() > 0


def test_half_precision_and_an_empty_batch_keep_their_type():
    for kind in KINDS:
        given = {"gradient": GRADIENT.bfloat16()} if kind == "adversarial" else {}
        assert call(kind, z=Z.bfloat16(), **given).z_q.dtype == torch.bfloat16
        none = call(kind, z=Z[:0], sample_ids=IDS[:0], **({"gradient": GRADIENT[:0]} if given else {}))
        assert none.z_q.shape == (0, L, D) and none.chosen.shape == (0, L)
    state = torch.get_rng_state()
    call("gaussian", codebook=None)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("far", {}, "kind: found 'far', expected one of neighbor"),
        ("neighbor", {"delta": None}, "delta: found None, but the perturbation 'neighbor' needs it"),
        ("uniform", {"codebook": None}, "codebook: found None, but the perturbation 'uniform' needs it"),
        ("gaussian", {"strength": None}, "strength: found None"),
        ("adversarial", {"gradient": None}, "gradient: found None"),
        ("uniform", {"delta": 3}, "delta: the perturbation 'uniform' does not use it"),
        ("mask", {"strength": 0.1}, "strength: the perturbation 'mask' does not use it"),
        ("gaussian", {"neighbors": "code"}, "neighbors: the perturbation 'gaussian' does not use it"),
        ("neighbor", {"gradient": GRADIENT}, "gradient: the perturbation 'neighbor' does not use it"),
        ("mask", {"codebook": None, "similarity": "l2"}, "similarity: without a codebook nothing is compared"),
        ("gaussian", {"strength": -0.5}, "strength: found -0.5, expected at least 0"),
        ("interpolate", {"strength": 1.5}, "strength: found 1.5, expected 0 to 1"),
        ("gaussian", {"strength": torch.ones(3)}, r"strength: found shape \(3,\)"),
        ("adversarial", {"gradient": GRADIENT[:2]}, "gradient: found"),
        ("adversarial", {"gradient": GRADIENT, "delta": 31}, "delta: found 31"),
        ("uniform", {"alpha": 1.5}, "alpha: found 1.5"),
        ("mask", {"z": F.one_hot(torch.zeros(2, 3, dtype=torch.int64)).float()[0], "codebook": None}, "z: found shape"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(kind, given, message):
    with pytest.raises(ValueError, match=message):
        perturb(**{"z": Z, "codebook": CODES, "kind": kind, "seed": 5, **OF_KIND.get(kind, {}), **given})
