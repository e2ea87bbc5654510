"""A pipe, a socket or a device in the place of one file of a folder that is read: named, and nothing waits for it."""

import os
import shutil
from pathlib import Path

import pytest

from .table import Case, check, parameters


def pipe(name: str):
    """Puts a named pipe in the place of a file."""

    def made(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    return made


def device(name: str):
    """Puts a link to a device that never ends in the place of a file."""

    def made(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")

    return made


def published(folder: Path) -> None:
    """A hub's folder whose weights are a pipe."""
    (folder / "hub").mkdir()
    (folder / "hub" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    os.mkfifo(folder / "hub" / "model.safetensors")


def lpips(folder: Path) -> None:
    (folder / "lpips").mkdir()
    os.mkfifo(folder / "lpips" / "vgg.pth")


def listed(folder: Path) -> None:
    (folder / "list.yaml").write_text("tokenizers:\n  - {name: a, file: weights.pt}\n")
    os.mkfifo(folder / "weights.pt")


def run(folder: Path) -> None:
    """A generator in the folder of a run whose settings are a pipe."""
    (folder / "run" / "generator").mkdir(parents=True)
    shutil.move(folder / "rar", folder / "run" / "generator" / "step-1")
    os.mkfifo(folder / "run" / "config.yaml")


OUT = "out --device cpu"
NETWORK = "--network classifier --weights classifier --device cpu --output out"
CASES = [
    Case(
        "a table of groups that is a pipe",
        pipe("photos/groups.csv"),
        "check_data photos",
        ("photos/groups.csv is a named pipe; expected a table of groups",),
        needs=("photos",),
    ),
    Case(
        "a table of groups that is a device",
        lambda folder: (folder / "photos/groups.csv").symlink_to("/dev/zero"),
        "check_data photos",
        ("photos/groups.csv is a device; expected a table of groups",),
        needs=("photos",),
    ),
    Case(
        "a table of groups that is a folder of images",
        lambda folder: shutil.copytree(folder / "photos/cat", folder / "photos/groups.csv"),
        "check_data photos",
        ("photos/groups.csv is a folder; expected a table of groups",),
        needs=("photos",),
    ),
    Case(
        "shards whose manifest is a pipe",
        pipe("tokens/manifest.json"),
        "check_data tokens",
        ("tokens",),
        needs=("tokens",),
    ),
    Case(
        "a shard whose tokens are a pipe",
        pipe("tokens/shard-00000/tokens.npy"),
        "check_data tokens",
        ("tokens/shard-00000/tokens.npy", "is a named pipe"),
        needs=("tokens",),
    ),
    Case(
        "a shard whose labels are a device",
        device("latents/shard-00000/labels.npy"),
        "check_data latents",
        ("latents/shard-00000/labels.npy", "is a device"),
        needs=("latents",),
    ),
    Case(
        "a checkpoint whose settings are a pipe",
        pipe("tokenizer/config.json"),
        "doctor --tokenizer tokenizer",
        ("tokenizer holds no valid checkpoint",),
        needs=("tokenizer",),
    ),
    Case(
        "a checkpoint whose manifest is a device",
        device("tokenizer/manifest.json"),
        "doctor --tokenizer tokenizer",
        ("tokenizer/manifest.json is a device; expected a JSON file",),
        needs=("tokenizer",),
    ),
    Case(
        "a checkpoint whose weights are a pipe",
        pipe("tokenizer/ema.safetensors"),
        "doctor --tokenizer tokenizer",
        ("tokenizer/ema.safetensors",),
        needs=("tokenizer",),
    ),
    Case(
        "a hub's weights that are a pipe",
        published,
        "doctor --tokenizer hub",
        ("hub/model.safetensors is a named pipe",),
    ),
    Case(
        "weights of LPIPS that are a pipe",
        lpips,
        f"evaluate tokenizer tokenizer --images photos --lpips lpips {NETWORK}",
        ("lpips/vgg.pth is a named pipe; expected a file of weights",),
        needs=("tokenizer", "photos", "classifier"),
    ),
    Case(
        "weights of a benchmark that are a pipe",
        listed,
        f"evaluate benchmark list.yaml --images photos {NETWORK}",
        ("weights.pt is a named pipe; expected a checkpoint",),
        needs=("photos", "classifier"),
    ),
    Case(
        "settings of a run that are a pipe",
        run,
        f"sample --generator run/generator/step-1 --n 2 --output {OUT}",
        ("out/tokens (2 images)",),  # it has none, then: those of the generator's family hold
        code=0,
        needs=("rar",),
        may_leave=("out/*",),
    ),
]


@pytest.mark.parametrize("case", parameters(CASES))
def test_special_files(case: Case, tmp_path: Path, good: Path, server):
    check(case, tmp_path, good, server)
