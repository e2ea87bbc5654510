"""What a run says that it will write is what it writes, and a disk too small for that is refused."""

import pytest

from robustok.core.errors import UserError
from robustok.data.images import open_images
from robustok.job import space
from robustok.job.command_line import parse_run_config, run_config_parser
from robustok.job.outline import Outline
from robustok.job.space import check_space, needed_bytes

from .conftest import TINY


def bytes_below(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def tiny():
    argv = [part for key, value in TINY.items() for part in (f"--{key}", str(value))]
    config = parse_run_config(run_config_parser("test", None), argv)[0]
    return config, open_images(config.data, 32)


def test_what_is_needed_is_what_is_written(tiny, job, tokenizer_run):
    config, images = tiny
    run = job("tokens", pairs__modes="[direct]")
    needed = needed_bytes(Outline(config, images, ("classifier", "tokenizer", "tokens")))
    for stage, training in (("classifier", config.classifier), ("tokenizer", config.tokenizer_training)):
        (checkpoint,) = (run / stage).glob("step-*")
        written = bytes_below(checkpoint) * (training.keep + 2)
        assert 0.95 * written < needed[stage] < 1.3 * written, stage
    assert needed["tokens"] == pytest.approx(bytes_below(run / "tokens"), rel=0.1)
    assert needed_bytes(Outline(config, images, ("tokens", "evaluate"))).keys() == {"tokens"}


def test_post_training_and_pairs_are_counted_for_each_mode(tiny):
    config, images = tiny
    needed = needed_bytes(Outline(config, images, ("tokenizer", "tokens", "generator", "pairs", "post")))
    assert needed["post"] == 2 * needed["tokenizer"] and needed["pairs"] == 2 * needed["tokens"]
    assert needed["generator"] > 1e5


def test_a_disk_too_small_is_refused_before_anything_is_trained(job, tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(space, "free_bytes", lambda path: 1_234_567)
    for extra in ((), ("--dry_run",)):
        with pytest.raises(UserError, match=r"runs/x: the run takes up to [\d.]+ MB, 1.23 MB are free; free"):
            job("tokenizer", extra=extra)
    assert not list(tmp_path.rglob("step-*"))


def test_what_is_there_already_needs_no_more_space(tiny, tokenizer_run, monkeypatch):
    from dataclasses import replace

    config, images = tiny
    config = replace(config, runs=str(tokenizer_run.parent), name=tokenizer_run.name)
    needed = needed_bytes(Outline(config, images, ("tokenizer",)))["tokenizer"]
    there = bytes_below(tokenizer_run / "tokenizer")
    monkeypatch.setattr(space, "free_bytes", lambda path: needed - there)
    assert "are free" in check_space(Outline(config, images, ("tokenizer",)))
    monkeypatch.setattr(space, "free_bytes", lambda path: needed - there - 1)
    with pytest.raises(UserError, match="keep fewer checkpoints"):
        check_space(Outline(config, images, ("tokenizer",)))
