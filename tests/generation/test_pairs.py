"""Pairs for post-training, against their definition written out pair by pair."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robustok import load_generator, load_tokenizer
from robustok.config import PairsConfig
from robustok.data.latents import open_latents
from robustok.data.tokens import open_tokens
from robustok.data.transforms import from_uint8, to_uint8
from robustok.generation import pairs
from robustok.generation.pairs import PairWriter
from robustok.model_configs import MAETokConfig, SiTConfig
from robustok.models.registry import FAMILIES

SETTINGS = {"guidance_scale": 2.0, "temperature": 1.1}
FLOW_SETTINGS = {"steps": 4, "solver": "heun", "guidance_scale": 2.0}
N = 7


class Split:
    """Images in the place of a data set's part."""

    source = SimpleNamespace(class_names=["a", "b", "c"])
    ids, labels = torch.arange(N) * 3, torch.arange(N) % 3
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (N, 3, 16, 16), np.uint8))

    def __len__(self):
        return N

    def load(self, rows):
        return self.images[rows]


@pytest.fixture
def write(checkpoint, tmp_path, monkeypatch):
    """write(sigma, ...) -> (tokenizer, generator, tokens of the direct pairs, of the re-encoded ones); seed 5."""
    monkeypatch.setattr(pairs, "PAIRS_PER_SHARD", 8)  # batches of 3 do not fill it
    tokenizer, generator = load_tokenizer(checkpoint / "tokenizer"), load_generator(checkpoint / "rar")

    def call(sigma: float, per_image: int = 2):
        config = PairsConfig(sigma=sigma, per_image=per_image)
        PairWriter(config, Split(), tokenizer, generator.sampler(**SETTINGS), 5, batch_size=3).write(tmp_path, {})
        return tokenizer, generator, open_tokens(tmp_path / "direct"), open_tokens(tmp_path / "reencode")

    return call


def test_pairs_are_samples_in_which_tokens_of_the_image_are_kept(write, samplers):
    tokenizer, generator, direct, reencoded = write(sigma=0.5)
    assert len(samplers) == 1
    rows = torch.arange(2 * N)
    own = tokenizer.tokenize(from_uint8(Split.images))[rows % N]
    expected = generator.generate(
        Split.labels[rows % N], seed=5, sample_ids=rows, keep_tokens=own, keep_ratio=0.5, **SETTINGS
    )
    found = torch.from_numpy(direct.tokens[:].astype("int64"))
    assert torch.equal(found, expected)
    assert not torch.equal(found[:N], found[N:])  # another sample of the same image
    assert torch.equal(direct.ids, Split.ids[rows % N]) and torch.equal(direct.labels, Split.labels[rows % N])
    again = tokenizer.tokenize(from_uint8(to_uint8(tokenizer.detokenize(expected))))
    assert torch.equal(torch.from_numpy(reencoded.tokens[:].astype("int64")), again)


def test_sigma_1_keeps_the_images_own_tokens(write):
    tokenizer, _, direct, _ = write(sigma=1.0, per_image=1)
    assert np.array_equal(direct.tokens[:], tokenizer.tokenize(from_uint8(Split.images)).numpy())


@pytest.fixture(scope="module")
def flow():
    """A small continuous tokenizer, and a flow generator of its latents on a scale of its own."""
    torch.manual_seed(0)
    shape = MAETokConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, num_latents=4, latent_width=3)
    scale = {"latent_mean": (1.0, 0.0, -1.0), "latent_std": (2.0, 1.0, 0.5)}
    sizes = SiTConfig(width=16, depth=1, heads=2, num_classes=3, num_latents=4, latent_width=3, **scale)
    models = FAMILIES["maetok"].build(shape), FAMILIES["sit"].build(sizes)
    for model in models:
        for parameter in model.eval().parameters():
            parameter.data.normal_(0, 0.2)
    return models


def latent_pairs(flow, folder, sigma: float, batch_size: int = 3):
    tokenizer, generator = flow
    config, sampler = PairsConfig(sigma=sigma, per_image=2), generator.sampler(**FLOW_SETTINGS)
    PairWriter(config, Split(), tokenizer, sampler, 5, batch_size).write(folder, {})
    return [open_latents(folder / mode) for mode in ("direct", "reencode")]


def test_latents_start_from_those_of_the_image_with_noise(flow, tmp_path, monkeypatch):
    """Times 0.4 to 0 of the way; decoded, rounded to pixels and encoded again. The same in batches of any size."""
    monkeypatch.setattr(pairs, "PAIRS_PER_SHARD", 8)
    tokenizer, generator = flow
    direct, reencoded = latent_pairs(flow, tmp_path / "a", sigma=0.6)
    rows = torch.arange(2 * N)
    own = tokenizer.encode(from_uint8(Split.images))[rows % N]
    expected = generator.generate(
        Split.labels[rows % N], seed=5, sample_ids=rows, keep_latents=own, keep_ratio=0.6, **FLOW_SETTINGS
    )
    found = direct.read(rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(direct.ids, Split.ids[rows % N]) and torch.equal(direct.labels, Split.labels[rows % N])
    torch.testing.assert_close(direct.mean, found.double().mean((0, 1)))
    again = tokenizer.encode(from_uint8(to_uint8(tokenizer.decode(found))))
    torch.testing.assert_close(reencoded.read(rows), again, rtol=0, atol=1e-5)
    for parts, whole in zip(latent_pairs(flow, tmp_path / "b", 0.6, batch_size=5), (direct, reencoded), strict=True):
        # a pixel may be rounded the other way, and be 2 / 255 off
        torch.testing.assert_close(parts.read(rows), whole.read(rows), rtol=0, atol=1e-5 if whole is direct else 1e-2)


def test_sigma_1_keeps_the_images_own_latents_and_sigma_0_none(flow, tmp_path):
    tokenizer, generator = flow
    rows = torch.arange(2 * N)
    own = torch.cat([tokenizer.encode(from_uint8(part)) for part in Split.images[rows % N].split(3)]).detach()
    assert torch.equal(latent_pairs(flow, tmp_path / "1", sigma=1.0)[0].read(rows), own)
    free = generator.generate(Split.labels[rows % N], seed=5, sample_ids=rows, **FLOW_SETTINGS)
    torch.testing.assert_close(latent_pairs(flow, tmp_path / "0", sigma=0.0)[0].read(rows), free, rtol=0, atol=1e-5)


def test_sigma_0_is_plain_sampling(write):
    _, generator, direct, _ = write(sigma=0.0, per_image=1)
    free = generator.generate(Split.labels, seed=5, sample_ids=torch.arange(N), **SETTINGS)
    assert torch.equal(direct.read(torch.arange(N)), free)
