"""Pairs for post-training, against their definition written out pair by pair."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robustok import load_generator, load_tokenizer
from robustok.config import PairsConfig
from robustok.data.tokens import open_tokens
from robustok.data.transforms import from_uint8, to_uint8
from robustok.generation import pairs
from robustok.generation.pairs import PairWriter

SETTINGS = {"guidance_scale": 2.0, "temperature": 1.1}
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
