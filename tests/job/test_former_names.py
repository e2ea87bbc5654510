"""Settings under their former names: files, options and stored runs are read as they were written."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from robustok.core.errors import UserError
from robustok.core.setting_names import REMOVED, RENAMED, what_results_depend_on
from robustok.job.command_line import parse_run_config, run_config_parser, setting_names
from robustok.presets import read_settings


def parsed(*argv: str):
    return parse_run_config(run_config_parser("test"), list(argv))[0]


def test_the_new_names_are_settings_and_the_former_ones_are_not():
    names = set(setting_names())
    assert set(RENAMED.values()) <= names
    assert not names & {*RENAMED, *REMOVED}


def test_an_old_file_is_read_with_a_line_for_each_former_name(tmp_path, capsys):
    file = tmp_path / "old.yaml"
    file.write_text("data:\n  stop: 7\n  judge: 8\n  flip: true\n")
    data = parsed("--config", str(file)).data
    assert (data.val, data.test, data.flip) == (7, 8, True)
    assert capsys.readouterr().err.splitlines() == [
        f"{file}: data.stop is now called data.val, and is read as that",
        f"{file}: data.judge is now called data.test, and is read as that",
    ]


@pytest.mark.parametrize("argv", [["--data.stop", "7", "--data.judge", "8"], ["--data.stop=7", "--data.judge=8"]])
def test_old_options_are_read_with_a_line_for_each(argv, capsys):
    data = parsed(*argv).data
    assert (data.val, data.test) == (7, 8)
    assert capsys.readouterr().err.splitlines() == [
        "--data.stop: data.stop is now called data.val, and is read as that",
        "--data.judge: data.judge is now called data.test, and is read as that",
    ]


def test_new_names_are_read_without_a_word(tmp_path, capsys):
    file = tmp_path / "new.yaml"
    file.write_text("data:\n  val: 7\n")
    assert parsed("--config", str(file), "--data.test", "8").data.val == 7
    assert capsys.readouterr().err == ""


def test_settings_that_are_no_more_are_left_out_of_old_files(tmp_path, capsys):
    file = tmp_path / "old.yaml"
    file.write_text("evaluation:\n  batch_size: 100\n  samples_per_class: 7\n")
    assert parsed("--config", str(file)).evaluation.samples_per_class == 7
    assert capsys.readouterr().err == ""
    assert what_results_depend_on(read_settings(file)) == {"evaluation": {"samples_per_class": 7}}


def test_a_file_may_be_based_on_a_preset(tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text("base: rar-l\ngenerator:\n  depth: 3\n")
    monkeypatch.chdir(tmp_path)
    found = parsed("--config=mine.yaml", "--generator.heads", "8")
    assert (found.generator.depth, found.generator.width, found.generator.heads) == (3, 1024, 8)
    assert found.tokenizer.codebook_size == 4096
    assert parsed("--generator.depth", "5", "--config", "mine.yaml").generator.depth == 5, "options override files"
    file.write_text("base: rar-xl\n")
    with pytest.raises(UserError, match=r"no preset 'rar-xl'; there are: .*digits, .*rar-b"):
        parsed("--config", str(file))


@pytest.mark.parametrize("text", ["- 1\n", "width\n", "a: [\n", ""])
def test_files_that_hold_no_settings_are_named(tmp_path, text):
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"wrong\.yaml"):
        read_settings(file)
    with pytest.raises(UserError, match=r"missing\.yaml .* the presets are in .*configs"):
        read_settings(tmp_path / "missing.yaml")


def under_former_names(run) -> int:
    """Rewrites the settings stored in a run's folder as they were stored before; returns how many files it changed."""
    changed = 0
    for path in [*run.rglob("*.json"), run / "config.yaml"]:
        text = path.read_text()
        old = text.replace('"val": 100', '"stop": 100').replace('"test": 150', '"judge": 150')
        old = old.replace("  val: 100", "  stop: 100").replace("  test: 150", "  judge: 150")
        if old != text:
            changed += 1
            path.write_text(old)
            _record_hash(path)
    return changed


def _record_hash(path) -> None:
    """Brings the manifest of the checkpoint that `path` belongs to up to date."""
    manifest = path.parent / "manifest.json"
    document = json.loads(manifest.read_text()) if manifest.is_file() else {}
    if path.name in document.get("files", {}):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        document["files"][path.name] = {"bytes": path.stat().st_size, "sha256": digest}
        manifest.write_text(json.dumps(document))


def test_a_run_stored_under_former_names_goes_on(job):
    """From a checkpoint in the middle of a stage, from finished stages, and from pairs that were begun."""
    settings = {"tokenizer_training__save_every": 4, "pairs__modes": "[direct]"}
    run = job("tokenizer", **settings)
    whole = load_file(run / "tokenizer" / "step-8" / "model.safetensors")
    for path in (run / "tokenizer" / "step-8").iterdir():
        path.unlink()
    (run / "tokenizer" / "step-8").rmdir()
    (run / "tokenizer" / "stage.json").unlink()
    assert under_former_names(run) >= 3  # the classifier's stage, the tokenizer's checkpoint, config.yaml
    job("tokenizer", **settings)
    resumed = load_file(run / "tokenizer" / "step-8" / "model.safetensors")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())

    job("generator", **settings)
    job("pairs", **settings)
    (run / "pairs" / "stage.json").unlink()
    assert under_former_names(run) >= 6
    shards = {path: path.stat().st_mtime_ns for path in run.rglob("tokens.npy")}
    job("pairs", **settings)
    assert shards == {path: path.stat().st_mtime_ns for path in run.rglob("tokens.npy")}


def test_a_stored_run_of_other_settings_is_still_refused(job, tokenizer_run):
    under_former_names(tokenizer_run)
    with pytest.raises(UserError, match=r"data\.val: stored 100, now 120"):
        job("tokenizer", data__val=120)
