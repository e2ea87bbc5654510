"""The command `robustok VERB`: the verbs, their help, and the exit codes of python -m robustok.VERB."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from robustok import check_data
from robustok.__main__ import VERBS, main
from robustok.core.version import __version__
from robustok.job.registry import STAGES
from robustok.train import STAGE_NAMES

ROOT = Path(__file__).parents[1]


@pytest.fixture
def called(monkeypatch, capsys):
    def call(*argv):
        monkeypatch.setattr(sys, "argv", ["robustok", *argv])
        code = main()
        return code, *capsys.readouterr()

    return call


def test_the_list_is_that_of_the_modules(called):
    modules = {p.stem for p in (ROOT / "robustok").glob("*.py") if "sys.exit(run_verb(main))" in p.read_text()}
    assert set(VERBS) == modules
    for argv in ((), ("--help",), ("-h",)):
        code, out, err = called(*argv)
        assert (code, err) == (0, "")
        assert all(f"  {verb} " in out and line in out for verb, line in VERBS.items())


def test_version(called):
    assert called("--version") == (0, f"robustok {__version__}\n", "")


@pytest.mark.parametrize("name", ["trian", "--no"])
def test_another_word_is_refused_with_the_verbs(called, name):
    code, out, err = called(name)
    assert (code, out) == (2, "")
    assert err == f"robustok: found {name!r}, expected a verb ({', '.join(VERBS)}), --help or --version\n"


def test_a_verb_gets_its_arguments_and_gives_its_exit_code(called, monkeypatch):
    seen = []

    def run(argv):
        seen.append((argv, list(sys.argv)))
        return 1

    monkeypatch.setattr(check_data, "main", run)
    assert called("check_data", "a b", "--json")[0] == 1
    assert seen == [(["a b", "--json"], ["robustok check_data", "a b", "--json"])]


def test_the_package_installs_the_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"robustok": "robustok.__main__:main"}


def test_the_help_of_train_names_the_stages():
    assert tuple(STAGES) == STAGE_NAMES


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("robustok ev", {"evaluate "}),
        ("robustok --v", {"--version "}),
        ("robustok sample --gui", {"--guidance_scale", "--guidance_power", "--guidance_interval"}),
        ("robustok evaluate samples --netw", {"--network "}),
        ("robustok train --codebook.c", {"--codebook.continuous_steps "}),
    ],
)
def test_the_shell_completes_verbs_and_options(line, answers, tmp_path):
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    asked |= {
        "COMP_TYPE": "9",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answers"),
        "_ARGCOMPLETE_COMP_WORDBREAKS": " ",
    }
    run = [sys.executable, "-c", "from robustok.__main__ import main; main()"]
    done = subprocess.run(run, env=os.environ | asked, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert set((tmp_path / "answers").read_text().split("\n")) == answers
