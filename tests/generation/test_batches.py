"""Sampling in batches: one sampler a run, one shape of batch, and the same images however they are batched."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robustok import evaluate, sample
from robustok.core.cli import run_verb
from robustok.data.transforms import to_uint8
from robustok.generation import batches
from robustok.generation.batches import GeneratedImages, decode_batches, generate_batches
from robustok.models.computing import compute_in
from robustok.models.load import load_generator, load_tokenizer

SETTINGS = {"guidance_scale": 2.0, "guidance_power": 1.2, "temperature": 1.1}


class Means:
    """Features that can be checked by hand: the mean of each colour."""

    protocol = "means"

    def __call__(self, images):
        return SimpleNamespace(features=images.float().mean((2, 3)))


@pytest.fixture
def judge(checkpoint, tmp_path, monkeypatch):
    """judge(options) runs `evaluate generator` on 120 images, and gives its exit code."""
    monkeypatch.setattr("robustok.evaluation.features.registry.open_network", lambda *options: Means())
    np.savez(tmp_path / "images.npz", np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8))
    argv = f"generator {checkpoint}/rar --tokenizer {checkpoint}/tokenizer --reference {tmp_path}/images.npz"
    argv += f" --per_class 40 --device cpu --output {tmp_path}/out"
    return lambda *options: run_verb(evaluate.main, [*argv.split(), *options])


def test_a_grid_takes_one_sampler(checkpoint, samplers, tmp_path):
    models = f"--generator {checkpoint}/rar --tokenizer {checkpoint}/tokenizer"
    sample.main(f"{models} --batch_size 2 --grid 2x3 --device cpu --output {tmp_path}/grid.png".split())
    assert len(samplers) == 1


def test_a_large_sample_takes_one_sampler(checkpoint, samplers, tmp_path):
    sample.main(
        f"--generator {checkpoint}/rar --n 9 --batch_size 2 --shard_images 4 --device cpu --output {tmp_path}".split()
    )
    assert len(samplers) == 1


def test_evaluating_a_generator_takes_one_sampler(judge, samplers):
    assert judge() == 0
    assert len(samplers) == 1


def test_a_sampling_setting_out_of_range_is_the_users_mistake(judge, capsys):
    assert judge("--temperature", "-1") == 2
    assert "temperature: found -1.0, expected a number from 0" in capsys.readouterr().err


def test_a_shards_features_are_taken_in_full_batches(checkpoint, tmp_path, monkeypatch):
    """The network says how many images it computes at once; the decoder has batches of its own."""
    means, calls = Means(), []
    means.batch_size = 64
    monkeypatch.setattr(Means, "__call__", noting_sizes(Means.__call__, calls))
    monkeypatch.setattr("robustok.evaluation.features.registry.open_network", lambda *options: means)
    monkeypatch.setattr("robustok.generation.shards.DECODE_BATCH", 10)
    np.savez(tmp_path / "images.npz", np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8))
    models = f"--generator {checkpoint}/rar --tokenizer {checkpoint}/tokenizer --reference {tmp_path}/images.npz"
    work = f"--n 150 --batch_size 50 --shard_images 100 --device cpu --output {tmp_path}/out"
    assert run_verb(sample.main, f"{models} {work}".split()) == 0
    assert calls == [64, 36, 50, 9]  # two shards, then the reference


def noting_sizes(call, sizes):
    def noted(self, images):
        sizes.append(len(images))
        return call(self, images)

    return noted


@pytest.mark.parametrize("kept", [False, True])
def test_batches_of_any_size_give_the_same(make_model, kept):
    model, classes = make_model(4, 16, 3), torch.tensor([0, 0, 1, 1, 1, 2, 2])
    ids = torch.arange(7) * 5 + 3
    tokens = torch.randint(0, 16, (7, 4), generator=torch.Generator().manual_seed(1))
    keep = {"keep_tokens": tokens, "keep_ratio": 0.6} if kept else {}
    expected = model.generate(classes, seed=9, sample_ids=ids, **keep, **SETTINGS)
    assert not kept or (expected == tokens).float().mean() > 0.5
    for size in (1, 3, 7, 10):
        parts = {"kept": iter(tokens.split(size)), "keep_ratio": 0.6} if kept else {}
        sampler = model.sampler(**SETTINGS)
        found = [*generate_batches(sampler, classes, seed=9, batch_size=size, sample_ids=ids, **parts)]
        assert [len(part) for part in found] == [len(part) for part in classes.split(size)]
        assert torch.equal(torch.cat(found), expected), size


def test_a_sampler_goes_on_outside_inference_mode(make_model):
    sampler, classes = make_model(4, 16, 3).sampler(**SETTINGS), torch.tensor([0, 2])
    (inside,) = generate_batches(sampler, classes, seed=0, batch_size=2)
    assert torch.equal(sampler.generate(classes, seed=0), inside)


def test_all_batches_have_one_shape(make_model, monkeypatch):
    """A decoder is made for a shape, and on a GPU a graph is captured for it: here once for three batches."""
    model = make_model(4, 16, 3)
    streams, decoder = [], model.decoder

    def counted(count, choices=None):
        streams.append(count)
        return decoder(count, choices)

    monkeypatch.setattr(model, "decoder", counted)
    for _ in generate_batches(model.sampler(**SETTINGS), torch.tensor([0, 1, 2, 2, 2]), seed=0, batch_size=2):
        pass
    assert streams == [4]  # 2 images, each with and without its class


def test_kept_tokens_must_be_as_many_as_the_batches(make_model):
    kept = [torch.zeros(2, 4, dtype=torch.int64)]
    batches = generate_batches(
        make_model(4, 16, 3).sampler(**SETTINGS),
        torch.zeros(3, dtype=torch.int64),
        seed=0,
        batch_size=2,
        kept=kept,
        keep_ratio=0.5,
    )
    with pytest.raises(ValueError, match="shorter"):
        list(batches)


class Generator:
    """Its tokens say which class and which image they are of."""

    num_classes = 3

    def sampler(self, *, guidance_scale, compile):
        self.scale = int(guidance_scale)
        return self

    def generate(self, classes, *, seed, sample_ids):
        return torch.stack([classes, sample_ids, torch.full_like(classes, seed)], dim=1) * self.scale


class Decoder:
    device, tokenize = torch.device("cpu"), None  # a tokenizer of tokens

    def detokenize(self, tokens):
        return (tokens.float() / 127.5 - 1)[:, :, None, None].expand(-1, 3, 2, 2)


def test_generated_images_are_balanced_and_keyed_by_their_number(monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 4)
    stream = GeneratedImages(Generator(), Decoder(), per_class=5, seed=9, name="g", guidance_scale=1.0)
    for _ in range(2):  # it can be gone through again
        images = torch.cat(list(stream))[:, :, 0, 0]
        assert images.tolist() == [[i // 5, i, 9] for i in range(15)]
    assert len(stream) == 15
    assert np.bincount(stream.labels).tolist() == [5, 5, 5]


def test_tokens_are_decoded_in_batches(checkpoint):
    tokenizer = load_tokenizer(checkpoint / "tokenizer")
    tokens = torch.arange(5 * 4).reshape(5, 4) % 16
    found = list(decode_batches(tokenizer, tokens, batch_size=2))
    assert [len(batch) for batch in found] == [2, 2, 1]
    expected = to_uint8(tokenizer.detokenize(tokens))
    assert found[0].dtype == torch.uint8
    assert (torch.cat(found).int() - expected.int()).abs().max() <= 1  # batches of other sizes round otherwise


def test_a_part_of_generated_images_is_what_all_of_them_hold(checkpoint, monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 4)
    tokenizer, generator = load_tokenizer(checkpoint / "tokenizer"), load_generator(checkpoint / "rar")
    stream = GeneratedImages(generator, tokenizer, per_class=5, seed=3, name="rar", **SETTINGS)
    exact = stream.fingerprint()
    assert compute_in(tokenizer, "float32") is tokenizer and stream.fingerprint() == exact
    whole, part = torch.cat(list(stream)), torch.cat(list(stream.batches(4, 12)))
    assert torch.equal(part, whole[4:12])
    compute_in(tokenizer, "bfloat16")
    assert stream.fingerprint() != exact  # parts of such images are never put together with exact ones
