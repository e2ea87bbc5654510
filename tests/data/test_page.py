"""Every command of docs/data.md works as it is written, on a few photos and with networks of a test's size."""

import importlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.job.conftest import TINY

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
SMALL = TINY | {
    **{"data.val": 4, "data.test": 4, "perturbation.delta": 4, "codebook.continuous_steps": 0},
    **{"tokenizer.codebook_size": 32, "tokenizer_training.batch_size": 16, "classifier.batch_size": 16},
    **{"generator_training.batch_size": 16, "post_training.batch_size": 16, "tokenizer_training.epochs": 1},
}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two classes of 24 photos in PHOTOS, in the current folder."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for label, name in enumerate(("dark", "bright")):
        folder = tmp_path / "PHOTOS" / name
        folder.mkdir(parents=True)
        for number in range(24):
            height, width = draw.integers(60, 110, 2)
            pixels = draw.integers(100 * label, 100 * label + 155, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path


def blocks() -> list[tuple[str, str]]:
    """(language, text) of every block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def commands(text: str) -> list[list[str]]:
    """The words of every command; a backslash at the end of a line goes on."""
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines()]


def run(words: list[str]) -> None:
    verb = words[2].removeprefix("robustok.") if words[:2] == ["python", "-m"] else None
    if verb is None:
        subprocess.run(words, check=True)
        return
    smaller = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))] if verb == "train" else []
    assert not importlib.import_module(f"robustok.{verb}").main([*words[3:], *smaller])  # exit code 0


def test_every_command_of_the_page_on_data(photos, capsys):
    pytest.importorskip("pyarrow")
    if shutil.which("tar") is None:
        pytest.skip("needs tar")
    done = 0
    for language, text in blocks():
        if language == "python":
            exec(text, {})
            continue
        if language:  # a file, as it may look
            continue
        for words in commands(text):
            run(words)
            done += 1
    assert done == text_lines()
    assert (photos / "runs/tall/tokenizer").is_dir() and (photos / "runs/larger/tokenizer").is_dir()
    said = capsys.readouterr().out
    assert "tar shards" in said and "Parquet files" in said


def text_lines() -> int:
    """How many commands there are by another count: lines that begin one, outside of Python."""
    text = "".join(text for language, text in blocks() if not language)
    return len(re.findall(r"^(?! )\S", text, re.M))
