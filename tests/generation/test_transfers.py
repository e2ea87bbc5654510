"""Batches of a generator and of a decoder reach the host while a GPU makes the next."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from robustok import load_generator, load_tokenizer
from robustok.config import PairsConfig
from robustok.generation import shards
from robustok.generation.classes import about_run, class_list
from robustok.generation.pairs import PairWriter
from robustok.generation.shards import ShardedRun
from tests.transfers import WHILE_THE_NEXT_IS_MADE, Transfers

COUNT, BATCH = 7, 3
SETTINGS = {"guidance_scale": 2.0}


@pytest.fixture
def transfers(monkeypatch):
    return Transfers(monkeypatch)


@pytest.fixture
def models(checkpoint):
    return load_tokenizer(checkpoint / "tokenizer"), load_generator(checkpoint / "rar")


@pytest.mark.parametrize("mode", ["direct", "reencode"])
def test_pairs(models, transfers, mode):
    tokenizer, generator = models
    images = torch.randint(256, (COUNT, 3, 16, 16), dtype=torch.uint8)
    labels = torch.arange(COUNT) % 3
    split = type("Split", (), {"labels": labels, "load": lambda self, rows: images[rows], "__len__": lambda _: COUNT})()
    writer = PairWriter(PairsConfig(), split, tokenizer, generator.sampler(**SETTINGS), 5, BATCH)
    given, make = torch.arange(COUNT), writer._generated
    if mode == "reencode":
        given, make = torch.randint(16, (COUNT, 4)), writer._reencoded
    expected = make(given)
    transfers.of(*((writer.sampler, "generate") if mode == "direct" else (tokenizer, "tokenize")))
    assert torch.equal(make(given), expected)
    assert transfers.log == WHILE_THE_NEXT_IS_MADE


@pytest.fixture
def run(models, tmp_path):
    tokenizer, generator = models
    classes = class_list(COUNT, 3)
    return ShardedRun(
        tmp_path,
        classes,
        lambda: generator.sampler(**SETTINGS),
        about=about_run(generator, tokenizer, classes, SETTINGS),
        seed=5,
        batch_size=BATCH,
        shard_rows=COUNT,
        tokenizer=tokenizer,
        image_kinds=("npy",),
    )


def test_sampled_tokens(run, transfers):
    expected = run._sample(0)
    transfers.of(run.sampler, "generate")
    assert torch.equal(run._sample(0), expected) and transfers.log == WHILE_THE_NEXT_IS_MADE


def test_images_that_are_kept(run, transfers, monkeypatch):
    monkeypatch.setattr(shards, "DECODE_BATCH", BATCH)
    tokens, written = run._sample(0), []
    monkeypatch.setattr(run, "images", SimpleNamespace(write=lambda *given: written.append(given[2])))
    run._write_images(0, tokens, torch.arange(COUNT), run.classes)
    transfers.of(run.tokenizer, "detokenize")
    monkeypatch.setattr("robustok.generation.batches.to_uint8", lambda images: images)
    run._write_images(0, tokens, torch.arange(COUNT), run.classes)
    assert written[1].shape == written[0].shape and transfers.log == WHILE_THE_NEXT_IS_MADE


def test_shards_are_decoded_on_one_stream(run, monkeypatch):
    """Memory that is freed on one stream is not given to another: every shard would take as much again."""
    made, used = [], []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or len(made))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: used.append(stream) or nullcontext())
    monkeypatch.setattr(run, "_complete", lambda *given: None)
    for number in range(3):
        run._complete_beside(number, torch.zeros(0), None)
    assert made == [run.sampler.device] and used == [1, 1, 1]
