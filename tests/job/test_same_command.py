"""The same command again: on a finished run, on a damaged checkpoint, on a disk that was full."""

import errno
import os
from types import SimpleNamespace

import pytest
import torch

from robustok.checkpoints.reading import load, steps
from robustok.config import RunConfig
from robustok.core.errors import RunError
from robustok.job import final_evaluation
from robustok.job.pipeline import Pipeline
from robustok.training.run import Run


def test_a_finished_run_shows_its_figures_and_measures_nothing_again(job, monkeypatch, capsys):
    run = job(pairs__modes="[direct]")
    first = capsys.readouterr().out
    report = run / "report.html"
    before = {path: path.stat().st_mtime_ns for path in (run / "evaluation/metrics.json", report)}
    measured = []
    measure = final_evaluation.measure
    monkeypatch.setattr(final_evaluation, "measure", lambda job: measured.append(job) or measure(job))
    monkeypatch.setattr(Pipeline, "classifier", property(lambda self: pytest.fail("the classifier was loaded")))
    job(pairs__modes="[direct]")
    again = capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before} and not measured
    assert first in again and "Everything was done before" in again and f"Pictures: {report}" in again
    monkeypatch.undo()
    monkeypatch.setattr(final_evaluation, "measure", lambda job: measured.append(job) or measure(job))
    report.unlink()
    job("evaluate", pairs__modes="[direct]")
    assert len(measured) == 1 and report.is_file()


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(job, capsys):
    settings = {"tokenizer_training__save_every": 2, "tokenizer_training__keep": 3}
    run = job("tokenizer", **settings)
    _, older, newest = steps(run / "tokenizer")
    files = ("model", "ema", "training", "discriminator")
    expected = load(newest, *files)
    (run / "tokenizer" / "stage.json").unlink()
    (newest / "training.safetensors").unlink()
    job("tokenizer", tokenizer_training__save_every=3)  # no result depends on it
    said = capsys.readouterr().err
    assert f"{newest}/training.safetensors is missing" in said and f"going on from {older.name}" in said
    assert newest.with_name(f"{newest.name}.damaged").is_dir()
    for before, after in zip(expected, load(newest, *files), strict=True):
        assert before.keys() == after.keys()
        assert [name for name, tensor in before.items() if not torch.equal(tensor, after[name])] == []


def test_a_disk_that_is_full_for_the_log_ends_a_run_with_what_is_free(tmp_path):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for write in (full, lambda line: len(line) - 1):  # the system takes nothing, or a part
        run = Run(RunConfig(runs=str(tmp_path), name="x", device="cpu"))
        run._log.close()
        run._log = SimpleNamespace(write=write, close=lambda: None)
        with pytest.raises(RunError, match=r"x/log\.jsonl: no space left .* bytes free on its disk, \d+ needed"):
            run.log("stage", 2, {"loss": 1.0})
        run.close()
