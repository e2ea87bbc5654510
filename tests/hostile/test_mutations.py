"""Good files with bytes changed, cut out and put in: they are read, or refused with a message, and nothing else."""

import random
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from robustok.core.errors import UserError
from robustok.evaluation.statistics import ImageStatistics
from robustok.evaluation.streams import NpzImages
from robustok.formats.opening import open_published

from .forging import saved

STATE = {f"blocks.{i}.weight": torch.arange(12.0).view(3, 4) for i in range(4)}
CONTENT = {"model": STATE, "args": Namespace(lr=1e-3, sizes=[1, 2, (3, 4)]), "epoch": 3}


def statistics(compressed: bool) -> Callable[[Path], None]:
    arrays = {"mu": np.zeros(4), "sigma": np.eye(4), "count": np.int64(5), "about": np.array('{"size": [4, 4]}')}
    arrays |= {"arr_0": np.zeros((5, 4, 4, 3), np.uint8), "arr_1": np.arange(5)}
    return lambda path: (np.savez_compressed if compressed else np.savez)(path, **arrays)


def read_npz(path: Path) -> None:
    ImageStatistics.load(path)
    list(NpzImages(path))


def read_weights(path: Path) -> None:
    for state in open_published(path).weights.values():
        for tensor in state.values():
            tensor.sum()


KINDS = {
    "new.pt": (lambda path: path.write_bytes(saved(CONTENT)), read_weights),
    "old.pt": (lambda path: path.write_bytes(saved(CONTENT, old=True)), read_weights),
    "x.safetensors": (lambda path: path.write_bytes(save(STATE)), read_weights),
    "plain.npz": (statistics(False), read_npz),
    "compressed.npz": (statistics(True), read_npz),
}
EXTREMES = (b"\xff" * 8, bytes(8), b"\xff" * 7 + b"\x7f", b"\0\0\0\x40\0\0\0\0", bytes(range(16)))


def mutated(data: bytes, draw: random.Random) -> bytes:
    """With one to sixteen changes, most of them at the ends, where the tables are."""
    made = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 4, 16])):
        size = len(made)
        place = draw.choice(
            [draw.randrange(size), draw.randrange(min(size, 1000)), -1 - draw.randrange(min(size, 1000))]
        )
        change, extreme = draw.randrange(5), draw.choice(EXTREMES)
        place %= size
        if change == 0:
            made[place] = draw.randrange(256)
        elif change == 1:
            made[place : place + len(extreme)] = extreme
        elif change == 2:
            made[place:place] = extreme
        elif change == 3:
            del made[place : place + draw.choice([1, 4, 100])]
        else:
            made[place] ^= 1 << draw.randrange(8)
        if not made:
            break
    return bytes(made)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.torture)])
def test_mutations_are_read_or_refused(name, count, tmp_path):
    write, read = KINDS[name]
    path, draw, refused = tmp_path / name, random.Random(f"{name} {count}"), 0
    write(path)
    good = path.read_bytes()
    for number in range(count):
        path.write_bytes(mutated(good, draw))
        try:
            read(path)
        except UserError as error:
            refused += 1
            assert str(path) in str(error), number
        except Exception as error:
            raise AssertionError(f"mutation {number} of {name}") from error
    assert refused > count / 2
