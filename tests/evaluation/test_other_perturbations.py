"""FID under the other perturbations, under noise, and of interpolations: each against a loop written out."""

import numpy as np
import pytest
import torch
from torch import nn

from robustok import perturb, vq_nearest
from robustok.core.random import NOISE, keyed_normal
from robustok.data.transforms import from_uint8, to_uint8
from robustok.evaluation import (
    FeatureStatistics,
    frechet_distance,
    interpolation,
    interpolation_fid,
    noise_fid,
    pfid,
    quick_pfid,
)
from robustok.evaluation.noise import STRENGTHS, noise_name
from robustok.evaluation.pfid import ALPHAS, perturbed_name
from robustok.model_configs import TokenizerConfig
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer


class Continuous:
    """What noise and interpolation need of a tokenizer without codes, with latents of unequal scale."""

    device = torch.device("cpu")

    def __init__(self, tokenizer):
        self.inner, self.scale = tokenizer, torch.linspace(0.1, 30, 6)
        self.encoded = 0

    def encode(self, images):
        self.encoded += len(images)
        return self.inner.encode(images) * self.scale + 2

    def decode(self, z):
        return self.inner.decode((z - 2) / self.scale)


@pytest.fixture
def continuous(tokenizer):
    return Continuous(tokenizer)


def distance(restored, images, features) -> float:
    sides = [FeatureStatistics(12).update(features(x).features) for x in (restored, images)]
    return frechet_distance(*sides)


def adversary_s_gradient(tokenizer, images, latents):
    """Of the squared error, in float64."""
    codes = nn.functional.normalize(tokenizer.codebook.double(), dim=1)
    clean = codes[vq_nearest(latents, tokenizer.codebook)].requires_grad_()
    decoded = (3 * clean.flatten(1) @ tokenizer.weight.double().T).view(-1, 3, 16, 16)
    (decoded - from_uint8(images).double()).square().sum().backward()
    return clean.grad.float()


@pytest.mark.parametrize("kind", ["uniform", "adversarial", "mask"])
def test_every_cell_is_the_distance_of_its_reconstructions(tokenizer, images, pixels, kind):
    deltas = {"adversarial": (5, 12), "uniform": (48,), "mask": (1,)}[kind]
    given = {"deltas": deltas} if kind == "adversarial" else {}
    found = pfid(tokenizer, images, pixels, kind=kind, alphas=(0.9, 0.3), seed=3, batch_size=25, **given)
    assert set(found.table) == {(alpha, delta) for alpha in (0.9, 0.3) for delta in deltas} and found.kind == kind
    latents = tokenizer.encode(from_uint8(images))
    for (alpha, delta), value in found.table.items():
        near = {"delta": delta} if kind == "adversarial" else {}
        if kind == "adversarial":
            near["gradient"] = adversary_s_gradient(tokenizer, images, latents)
        moved = perturb(latents, tokenizer.codebook, kind, alpha=alpha, seed=3, **near)
        restored = to_uint8(tokenizer.decode(moved.z_q))
        assert value == pytest.approx(distance(restored, images, pixels), rel=1e-6)
    assert found.rfid == pytest.approx(pfid(tokenizer, images, pixels, alphas=(0.5,), deltas=(2,)).rfid, rel=1e-3)


def test_codes_from_anywhere_score_worse_than_near_ones(tokenizer, images, pixels):
    codes = nn.functional.normalize(tokenizer.codebook[tokenizer.tokenize(from_uint8(images))], dim=-1)
    images = to_uint8(tokenizer.decode(codes))  # which it gives back exactly
    near = pfid(tokenizer, images, pixels, alphas=(0.4,), deltas=(6,), seed=1)
    uniform = pfid(tokenizer, images, pixels, kind="uniform", alphas=(0.4,), seed=1)
    assert near.rfid == pytest.approx(uniform.rfid, abs=1e-6) and near.rfid < near.mean < uniform.mean


def test_only_the_paper_s_kind_is_called_pfid(tokenizer, images, pixels):
    assert (perturbed_name("neighbor"), perturbed_name("uniform", "FD-digits")) == ("pFID", "uniform FD-digits")
    assert (noise_name("gaussian"), noise_name("interpolate")) == ("nFID", "interpolate FID")
    quick = quick_pfid(tokenizer, images, pixels, kind="uniform", max_images=30)
    assert list(quick.table) == [(0.9, 48), (0.7, 48), (0.5, 48)] and quick.count == 30
    with pytest.raises(ValueError, match=r"kind: found 'gaussian', .*measured by noise_fid"):
        pfid(tokenizer, images, pixels, kind="gaussian")
    with pytest.raises(ValueError, match="deltas: the perturbation 'mask' has no delta"):
        pfid(tokenizer, images, pixels, kind="mask", deltas=(3,))
    with pytest.raises(ValueError, match="all compared in one way"):
        pfid(tokenizer, images, pixels, kind="mask", unperturbed="l2")


@pytest.mark.parametrize("kind", ["adversarial", "mask"])
def test_a_network_is_perturbed_inside_inference_mode(pixels, kind):
    torch.manual_seed(0)
    shape = TokenizerConfig(image_size=16, width=32, depth=1, heads=2, codebook_size=512, code_width=4)
    tokenizer = ViTTokenizer(shape).eval()
    images = torch.randint(0, 256, (20, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.inference_mode():
        found = pfid(tokenizer, images, pixels, kind=kind, alphas=(1.0,), batch_size=7)
    assert found.mean not in (found.rfid, 0) and all(p.grad is None for p in tokenizer.parameters())
    several = ViTTokenizer(TokenizerConfig(**{**vars(shape), "codebooks": 2})).eval()
    with pytest.raises(ValueError, match="latents that are single codes"):
        pfid(several, images, pixels, kind=kind)


@pytest.mark.parametrize("kind", ["gaussian", "interpolate"])
def test_noise_is_measured_in_the_latents_own_deviations(continuous, images, pixels, kind):
    found = noise_fid(continuous, images, pixels, kind=kind, strengths=(0.2, 1.0), seed=4, batch_size=25)
    assert continuous.encoded == 60 and found.count == 60
    z = continuous.encode(from_uint8(images)).double()
    mean, std = z.flatten(0, 1).mean(0), z.flatten(0, 1).std(0, correction=0)
    torch.testing.assert_close(found.std, std, rtol=1e-6, atol=0)
    noise = keyed_normal(4, NOISE, torch.arange(60), (16, 6)).double()
    for t, value in found.table.items():
        noisy = z + t * std * noise if kind == "gaussian" else (1 - t) * z + t * (mean + std * noise)
        restored = to_uint8(continuous.decode(noisy.float()))
        assert value == pytest.approx(distance(restored, images, pixels), rel=1e-3)
    assert found.mean == pytest.approx(sum(found.table.values()) / 2)
    assert found.rfid == pytest.approx(distance(to_uint8(continuous.decode(z.float())), images, pixels), rel=1e-3)


def test_more_noise_scores_worse_and_scales_do_not_matter(continuous, tokenizer, images, pixels):
    found = noise_fid(continuous, images, pixels)
    assert tuple(found.table) == STRENGTHS and list(found.table.values()) == sorted(found.table.values())
    continuous.scale = torch.full((6,), 5.0)
    assert noise_fid(continuous, images, pixels).mean == pytest.approx(found.mean, rel=1e-2)
    on_codes = noise_fid(tokenizer, images, pixels, strengths=(0.3,))
    assert on_codes.rfid == pytest.approx(pfid(tokenizer, images, pixels, alphas=(0.5,), deltas=(2,)).rfid, rel=1e-6)
    assert on_codes.mean > on_codes.rfid


def nearest_pairs(rows) -> list[int]:
    rows = rows.double().flatten(1)
    far = (rows[:, None] - rows[None]).square().sum(2)
    return [min((float(far[a, b]), b) for b in range(len(rows)) if b != a)[1] for a in range(len(rows))]


@pytest.mark.parametrize("space", ["latent", "features"])
@pytest.mark.parametrize("weight", [0.5, 0.2])
@pytest.mark.parametrize("discrete", [True, False])
def test_interpolations_are_those_of_a_written_out_loop(request, images, pixels, discrete, weight, space):
    tokenizer = request.getfixturevalue("tokenizer" if discrete else "continuous")
    found = interpolation_fid(tokenizer, images, pixels, weight=weight, space=space, batch_size=25)
    z = tokenizer.encode(from_uint8(images))
    if discrete:
        z = nn.functional.normalize(tokenizer.codebook, dim=1)[vq_nearest(z, tokenizer.codebook)]
    pairs = nearest_pairs(z if space == "latent" else pixels(images).features.float())
    decoded = [tokenizer.decode(((1 - weight) * z[a] + weight * z[b])[None]) for a, b in enumerate(pairs)]
    expected = distance(to_uint8(torch.cat(decoded)), images, pixels)
    assert found.value == pytest.approx(expected, rel=1e-3)
    assert (found.count, found.weight, found.space) == (60, weight, space)


def test_neighbours_do_not_depend_on_the_blocks(continuous, images, pixels, monkeypatch):
    whole = interpolation_fid(continuous, images, pixels)
    monkeypatch.setattr(interpolation, "BLOCK_BYTES", 8 * 96 * 7)
    assert interpolation_fid(continuous, images, pixels).value == whole.value


def test_batches_of_any_size_give_the_same(continuous, images, pixels):
    seen = []
    for measure in (interpolation_fid, noise_fid):
        whole = measure(continuous, images, pixels, batch_size=60)
        parts = measure(continuous, iter(images.split([1, 30, 29])), pixels, batch_size=40, progress=seen.append)
        same = ("value",) if measure is interpolation_fid else ("mean", "rfid")
        for name in same:
            assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-6)
    assert seen == [40, 60, 40, 60]
    state = torch.get_rng_state()
    noise_fid(continuous, images[:10], pixels)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_judged_is_refused(continuous, images, pixels):
    for measure in (interpolation_fid, noise_fid):
        with pytest.raises(ValueError, match="found 1, expected at least two"):
            measure(continuous, images[:1], pixels)
        with pytest.raises(ValueError, match="found 0, expected at least two"):
            measure(continuous, [], pixels)
    with pytest.raises(ValueError, match="kind: found 'neighbor'"):
        noise_fid(continuous, images, pixels, kind="neighbor")
    with pytest.raises(ValueError, match=r"strengths: found \[0.5, 1.5\], expected one or more of 0 to 1"):
        noise_fid(continuous, images, pixels, kind="interpolate", strengths=(0.5, 1.5))
    with pytest.raises(ValueError, match="space: found 'pixels'"):
        interpolation_fid(continuous, images, pixels, space="pixels")
    with pytest.raises(ValueError, match="weight: found 2"):
        interpolation_fid(continuous, images, pixels, weight=2)
    assert np.isfinite(interpolation_fid(continuous, images[:2], pixels).value) and len(ALPHAS) == 5
