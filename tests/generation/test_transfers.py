"""Batches of a generator and of a decoder reach the host while a GPU makes the next."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
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


def sharded(models, folder, shard_rows: int) -> ShardedRun:
    tokenizer, generator = models
    classes = class_list(COUNT, 3)
    return ShardedRun(
        folder,
        classes,
        lambda: generator.sampler(**SETTINGS),
        about=about_run(generator, tokenizer, classes, SETTINGS),
        seed=5,
        batch_size=BATCH,
        shard_rows=shard_rows,
        tokenizer=tokenizer,
        image_kinds=("npy",),
    )


@pytest.fixture
def run(models, tmp_path):
    return sharded(models, tmp_path, shard_rows=COUNT)


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


def test_shards_are_decoded_beside_the_next_on_one_stream(models, tmp_path, monkeypatch):
    """Memory that is freed on one stream is not given to another: every shard would take as much again."""
    made, used = [], []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or len(made))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: used.append(stream) or nullcontext())
    runs = [sharded(models, tmp_path / name, shard_rows=BATCH) for name in ("cpu", "gpu")]
    runs[1].sampler = SimpleNamespace(generate=runs[1].sampler.generate, device=SimpleNamespace(type="cuda"))
    found = []
    for run in runs:
        assert run.work(lambda done: None) == COUNT
        found.append((run.finish().read(torch.arange(COUNT)), np.load(run.folder / "images.npy")))
    assert torch.equal(found[0][0], found[1][0]) and np.array_equal(found[0][1], found[1][1])
    assert made == [runs[1].sampler.device] and used == [1, 1, 1]
