"""The same command again: on a finished run, on a damaged checkpoint, on a disk that was full."""

import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from robustok.checkpoints.reading import load, steps
from robustok.config import RunConfig
from robustok.core.errors import RunError, UserError
from robustok.data.groups import write_groups
from robustok.job import final_evaluation
from robustok.job.pipeline import Pipeline
from robustok.train import _command_to_resume, main
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


def test_images_in_other_groups_are_other_data(tmp_path):
    """They are split otherwise: a run that went on would train on images that it was to be tested by."""
    draw, photos = np.random.default_rng(0), tmp_path / "photos"
    groups = {f"{label}/{number}.png": f"{label} {number // 2}" for label in "abc" for number in range(12)}
    for name in groups:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)).save(photos / name)
    write_groups(photos, groups)
    settings = {"data.root": photos, "data.val": 4, "data.test": 4, "classifier.batch_size": 8}
    argv = ["--runs", str(tmp_path / "runs"), "--stage", "classifier", "--classifier.epochs", "1"]
    argv += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    assert main(argv) == 0 and main(argv) == 0
    write_groups(photos, groups | {"a/0.png": "a 1"})
    with pytest.raises(
        UserError, match=r"classifier belongs to another config:\n  images: stored '\w{64}', now '\w{64}'"
    ):
        main(argv)
    write_groups(photos, groups)
    assert main(argv) == 0


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


def test_a_run_of_several_processes_is_resumed_by_torchrun():
    argv = ["--data.root", "my photos", "--resume", "never"]
    said = "-m robustok.train --data.root 'my photos' --resume never --resume auto"
    assert _command_to_resume(argv, 1) == f"python {said}"
    assert _command_to_resume(argv, 2) == f"torchrun [its options as before] {said}"
