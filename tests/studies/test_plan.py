"""What a study runs: its file, and the settings of each run."""

from pathlib import Path

import pytest
import yaml

from robustok.core.errors import UserError
from robustok.presets import FOLDER
from robustok.studies.plan import read_study, run_name


def test_rows_run_seed_by_seed(study):
    assert [run_name(row, seed) for row, seed in study.runs()] == [
        *("none-0", "annealed-half-0", "sigma-0.7-0"),
        *("none-1", "annealed-half-1"),
    ]
    assert [run_name(row, seed) for row, seed in study.runs(["none"], [5, 5])] == ["none-5"]
    with pytest.raises(UserError, match=r"--rows: found nothing, expected some of none, annealed-half, sigma-0\.7"):
        list(study.runs(["nothing"]))


def test_settings_of_a_run(study):
    """The study's, over them the row's, and the models of the rows that it takes them from, of the same seed."""
    row = study.rows["sigma-0.7"]
    assert study.settings_of(row, 1, Path("runs")) == {
        "base": "digits",
        "data": {"val": 200, "test": 300},
        "pairs": {"sigma": 0.7},
        "name": "sigma-0.7-1",
        "runs": "runs",
        "seed": 1,
        "start": {
            "classifier": "runs/judge/classifier",
            "tokenizer": "runs/annealed-half-1/tokenizer",
            "generator": "runs/annealed-half-1/generator",
        },
    }
    assert row.stages == ("tokens", "pairs", "post", "evaluate")
    assert study.rows["none"].stages == ("all",)
    assert study.settings_of_judge(Path("runs"))["name"] == "judge"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": {"a": {"part": "reviewers", "says": "s", "tokenizer": "b"}}}, r"rows\.a\.tokenizer: found 'b'"),
        ({"rows": {"a": {"part": "reviewers", "says": "s", "tokenizer": "a"}}}, r"rows\.a\.tokenizer: found 'a'"),
        ({"rows": {"a": {"part": "p"}}}, "cannot be read as a study"),
        ({"rows": {"a": {"part": "p", "says": "s", "colour": 1}}}, "cannot be read as a study .*colour"),
        ({"rows": {"a": {"part": "p", "says": "s"}}}, r"rows\.a\.part: found 'p', expected one of perturbation, rev"),
        ({"rows": {"a": {"part": "reviewers", "says": "s", "seeds": 3}}}, "cannot be read as a study"),
        ({"rows": {"a": {"part": "reviewers", "says": "s", "seeds": ["x"]}}}, "whole numbers from 0 on, found 'x'"),
        ({"rows": {"a": {"part": "reviewers", "says": "s", "seeds": [0, -1]}}}, "whole numbers from 0 on, found -1"),
        ({"rows": {"a": {"part": "reviewers", "says": "s", "seeds": [2, 2]}}}, r"rows\.a: each seed is run once"),
        ({"more": 1}, "expected settings, seeds and rows"),
        ({"rows": 3}, "cannot be read as a study"),
    ],
)
def test_a_wrong_file_is_one_message(tmp_path, change, said):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({"settings": {}, "seeds": [0], "rows": {}} | change))
    with pytest.raises(UserError, match=said):
        read_study(file)


@pytest.mark.parametrize("file", sorted((FOLDER / "study").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_studies_are_runs_that_can_be(file, tmp_path):
    """Every row's settings are settings of a run."""
    from robustok.job.command_line import parse_run_config, run_config_parser

    study = read_study(file)
    several = [row for row in study.rows.values() if row.part == "perturbation" and len(row.seeds) > 1]
    assert len(several) >= (6 if study.name == "emoji" else 2)
    for row, seed in study.runs():
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(study.settings_of(row, seed, Path("runs"))))
        run, _ = parse_run_config(run_config_parser("robustok.study", None), ["--config", str(config)])
        assert run.name == run_name(row, seed) and run.seed == seed
