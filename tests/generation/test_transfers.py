"""Batches on a GPU reach the host while the next are made; tensors that say they are on one stand for it."""

from types import SimpleNamespace

import pytest
import torch

from robustok import load_generator, load_tokenizer
from robustok.config import PairsConfig
from robustok.core import device
from robustok.generation import shards
from robustok.generation.classes import about_run, class_list
from robustok.generation.pairs import PairWriter
from robustok.generation.shards import ShardedRun

COUNT, BATCH = 7, 3
WHILE_THE_NEXT_IS_MADE = ["made 0", "made 1", "arrived 0", "made 2", "arrived 1", "arrived 2"]
SETTINGS = {"guidance_scale": 2.0}


class OnGPU(torch.Tensor):
    """A tensor that says it is on a GPU, as do its slices."""

    is_cuda = True


class Transfers:
    """What is made and copied to the host, in the order in which the host sees it."""

    def __init__(self, monkeypatch):
        self.log: list[str] = []
        self.monkeypatch = monkeypatch

    def of(self, owner: object, name: str) -> None:
        """Lets what a function gives be on a GPU."""
        make = getattr(owner, name)
        self.monkeypatch.setattr(device, "copied_to_host", self.copied)
        self.monkeypatch.setattr(owner, name, lambda *args, **kept: self.made(make(*args, **kept)))

    def made(self, rows: torch.Tensor) -> torch.Tensor:
        self.log.append(f"made {self.count()}")
        return rows.as_subclass(OnGPU)

    def copied(self, rows: torch.Tensor):
        assert rows.is_cuda
        number = self.count() - 1

        def wait() -> torch.Tensor:
            self.log.append(f"arrived {number}")
            return rows.as_subclass(torch.Tensor)

        return wait

    def count(self) -> int:
        return sum(entry.startswith("made") for entry in self.log)


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
