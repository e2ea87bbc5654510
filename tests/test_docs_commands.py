"""Every command of the pages is run as it stands, on small models; what it is said to print, it prints.

In a block of `console` a line that begins with `$` is a command; the lines below are how lines of its output begin.
With an error among them, or a figure outside of a recipe, it ends with a failure, else with success.
Of a `bash` block the commands of this package are run, those of torchrun in one process.
Commands are made small (`SMALL`) and look through a small classifier; training stops after its dry run.
Of pages whose commands need files that are not here (`README.md` and others), every option is one that the verb has.
"""

import contextlib
import functools
import io
import re
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustok.core.cli import run_verb

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ("scale_out", "file_formats", "errors", "monitoring", "recipes")
SMALL = {"--n 50000": "--n 6 --batch_size 3 --shard_images 3", "--size 256": "--size 16", "/shared/": "shared/"}
SMALL |= {"configs/robustok-b.yaml": "small.yaml"}
SMALL |= {"runs/demo/post": "runs/demo/tokenizer", "--compile": "", "$PBS_ARRAY_INDEX": "1"}
SETTINGS = """base: digits
data: {val: 6, test: 6}
tokenizer: {image_size: 16, patch_size: 8, width: 64, depth: 1, heads: 2, codebook_size: 16}
"""
SETTINGS += "".join(
    f"{stage}: {{batch_size: 8}}\n"
    for stage in ("classifier", "tokenizer_training", "generator_training", "post_training")
)
LOOKS = "--network classifier --weights runs/demo/classifier"


class Gadget:
    def __reduce__(self):
        import os

        return os.system, ("touch canary",)


@pytest.fixture(scope="module")
def room(tmp_path_factory, save_models):
    """What the pages speak of: a run, photos, and files that are refused."""
    root = tmp_path_factory.mktemp("room")
    save_models(root / "runs" / "demo")
    draw = np.random.default_rng(0)
    for name, sizes in (("PHOTOS", [(20, 16)]), ("mixed", [(20, 16), (16, 16)]), ("samples", [(16, 16)])):
        for i in range(36):
            path = root / name / f"class {i % 3}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (*sizes[i % len(sizes)], 3), np.uint8)).save(path)
    (root / "small.yaml").write_text(SETTINGS)
    (root / "mine.yaml").write_text(blocks("recipes", "yaml")[0])
    (root / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    torch.save({"weights": Gadget()}, root / "hostile.pt")
    return root


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / f"{page}.md").read_text()
    return [match[1].replace("\\\n", " ") for match in re.finditer(rf"```{language}\n(.*?)```", text, re.DOTALL)]


def run(command: str) -> int:
    for large, small in SMALL.items():
        command = command.replace(large, small)
    module, *arguments = shlex.split(command.partition(" -m ")[2])
    verb = module.removeprefix("robustok.")
    judges = verb == "evaluate" or (verb == "sample" and "--reference" in arguments)
    if judges and "--network" not in arguments:
        arguments += LOOKS.split()
    if verb == "train":
        arguments.append("--dry_run")
    return run_verb(import_module(module).main, arguments)


@pytest.mark.parametrize("page", PAGES)
def test_console_blocks_print_what_they_say(page, room, monkeypatch, capsys):
    monkeypatch.chdir(room)
    for block in blocks(page, "console"):
        for part in block.split("$ ")[1:]:
            command, *expected = part.strip().splitlines()
            code = run(command)
            out, err = capsys.readouterr()
            fails = "OUTSIDE" in out or any(line.startswith("robustok: ") for line in expected)
            assert (code == 0) == (not fails), f"{command}\n{err}"
            for line in expected:
                assert any(found.startswith(line) for found in (out + err).splitlines()), f"{command}\n{line}\n{err}"
    assert not (room / "canary").exists()


@pytest.mark.parametrize("page", PAGES)
def test_scripts_run(page, room, monkeypatch, capsys):
    monkeypatch.chdir(room)
    for name, value in {"ID": 1, "MIN": 1, "MAX": 1, "STEP": 1}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    for block in reversed(blocks(page, "bash")):  # the pieces that the whole needs stand below it
        commands = [line for line in block.splitlines() if " -m robustok." in line]
        assert commands
        for command in commands:
            assert run(command) == 0, f"{command}\n{capsys.readouterr().err}"


def test_the_tutorial_ends_with_images(room, monkeypatch):
    monkeypatch.chdir(room)
    names, text = {}, blocks("tutorial", "python")[-1]
    for there, here in (("mine/post", "demo/tokenizer"), ("mine/generator", "demo/generator")):
        assert there in text
        text = text.replace(there, here)
    exec(text, names)
    assert names["images"].shape == (2, 3, 16, 16)


@functools.cache
def options_of(*words: str) -> set[str]:
    """The options in the help of a verb, or of WHAT it is to do."""
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        import_module(f"robustok.{words[0]}").main([*words[1:], "--help"])
    return set(re.findall(r"--[\w.]+", said.getvalue()))


OTHERS = ["README.md", *(f"docs/{path.name}" for path in sorted(DOCS.glob("*.md")) if path.stem not in PAGES)]


def test_every_option_of_a_command_is_one_of_the_verb():
    wrong, count = [], 0
    for page in OTHERS:
        text = (ROOT / page).read_text().replace("\\\n", " ")
        for verb, rest in re.findall(r"python -m robustok\.(\w+)([^`\n#]*)", text):
            words = rest.split()
            given = [word.partition("=")[0] for word in words if word.startswith("--")]
            what = words[:1] if verb in ("evaluate", "explain") and given else []
            wrong += [f"{page}: {verb} {option}" for option in given if option not in options_of(verb, *what)]
            count += len(given)
    assert not wrong
    assert count > 100, "commands are found"
