"""A study from its command: it runs, goes on, and a row that is run again lies in the interval that it states."""

import json
import time

import pytest
import yaml

from robustok import study
from robustok.core.cli import run_verb
from robustok.presets import FOLDER
from robustok.studies import running
from robustok.studies.plan import read_study
from robustok.studies.running import Runner

TINY = FOLDER / "study/tiny.yaml"


def test_what_cannot_be_is_one_message(tmp_path, capsys):
    runs, alone = ["--runs", str(tmp_path / "runs")], tmp_path / "alone.yaml"
    alone.write_text(TINY.read_text().replace("seeds: [0, 1]", "seeds: [0]"))
    for options, said in (
        (["--rows", "nothing"], "--rows: found nothing, expected some of none, annealed-half"),
        (["--file", str(alone)], "alone: no row of the parts perturbation and reviewers has two seeds"),
        (["--file", str(tmp_path / "absent.yaml")], "absent.yaml"),
    ):
        assert run_verb(study.main, ["--file", str(TINY), *runs, *options]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_row_waits_for_what_it_takes(tmp_path, monkeypatch):
    """The classifier first; a row after those whose models it takes, whatever the number of jobs; a failure is told
    with the file that says why, after the others.
    """
    started = []

    def train(self, name, settings, stages):
        started.append(name)
        if name == "none-1":
            raise running.RunError("none-1 failed")

    monkeypatch.setattr(Runner, "_train", train)
    emoji = read_study(FOLDER / "study/emoji.yaml")
    with pytest.raises(running.RunError, match="none-1 failed"):
        Runner(emoji, tmp_path, 3).run(list(emoji.runs(["sigma-0.5", "none", "annealed-half"])))
    assert started[0] == "judge" and sorted(started) == sorted(
        ["judge", "none-0", "annealed-half-0", "sigma-0.5-0", "none-1", "annealed-half-1"]
    )
    assert started.index("sigma-0.5-0") > started.index("annealed-half-0")
    assert json.loads((tmp_path / running.MACHINES).read_text())["Python"]


def test_a_stage_that_fails_names_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(running.sys, "executable", "/bin/false")
    tiny = read_study(TINY)
    with pytest.raises(running.RunError, match=r"judge: stage classifier ended with code 1; see .*judge\.out"):
        Runner(tiny, tmp_path, 1).run(list(tiny.runs()))


@pytest.mark.torture
def test_two_rows_again_lie_in_their_intervals(tmp_path):
    """All of the tiny study; then, in a new folder, both rows by the command that their recipes name."""
    given = ["--file", str(TINY)]
    assert run_verb(study.main, [*given, "--runs", str(tmp_path / "first")]) == 0
    page = tmp_path / "first/page"
    assert "post-training lowers gFD" in (page / "README.md").read_text()
    assert run_verb(study.main, [*given, "--runs", str(tmp_path / "first")]) == 0  # nothing is run again
    again = [*given, "--runs", str(tmp_path / "again"), "--recipes", str(page / "recipes.yaml")]
    assert run_verb(study.main, [*again, "--rows", "none", "annealed-half", "--seeds", "0"]) == 0
    recipes = yaml.safe_load((page / "recipes.yaml").read_text())
    recipes["rows"]["none"]["expected"] = {"tokenizer.psnr": {"low": 80.0, "high": 90.0, "why": "none is so good"}}
    (page / "recipes.yaml").write_text(yaml.safe_dump(recipes))
    assert run_verb(study.main, [*again, "--rows", "none", "--seeds", "0"]) == 1


def test_a_study_that_is_stopped_stops_its_runs(tmp_path, monkeypatch):
    """The process of a run gets SIGTERM, no other run begins, and the study ends."""
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\necho begun >> begun\nexec sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running.sys, "executable", str(slow))
    monkeypatch.setattr(Runner, "_judge", lambda self: None)

    def stopped(futures):
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "wait", stopped)
    tiny = read_study(TINY)
    with pytest.raises(KeyboardInterrupt):
        Runner(tiny, tmp_path / "runs", 1).run(list(tiny.runs()))
    assert (tmp_path / "begun").read_text() == "begun\n"
