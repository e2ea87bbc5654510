"""A main job small enough for a test: the digits, tiny networks, a few steps a stage."""

from functools import partial
from pathlib import Path
from shutil import copytree

import pytest

from robustok.train import main

TINY = {
    "data.val": 100,
    "data.test": 150,
    "log_every": 2,
    "classifier.epochs": 1,
    "classifier.batch_size": 128,
    "tokenizer.width": 64,
    "tokenizer.depth": 1,
    "tokenizer.heads": 2,
    "tokenizer.drop_path": 0.1,
    "tokenizer.codebook_size": 256,
    "tokenizer.code_width": 4,
    "codebook.continuous_steps": 2,
    "perturbation.delta": 4,
    "losses.adversarial_start": 0.4,
    "tokenizer_training.epochs": 0.7,
    "tokenizer_training.batch_size": 128,
    "generator.width": 32,
    "generator.depth": 1,
    "generator.heads": 2,
    "generator.mlp_width": 64,
    "generator_training.epochs": 0.6,
    "generator_training.batch_size": 128,
    "pairs.per_image": 1,
    "post_training.epochs": 0.5,
    "post_training.batch_size": 128,
    "stopping.every_epochs": 0.25,
    "evaluation.samples_per_class": 5,
}


def run_job(runs: Path, stage: str = "all", name: str = "x", extra: tuple[str, ...] = (), **settings) -> Path:
    """Runs the tiny main job in the folder `runs` and returns the run's."""
    options = {**TINY, "runs": runs, "name": name, "stage": stage}
    options |= {key.replace("__", "."): value for key, value in settings.items()}
    argv = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    main([*argv, *extra])
    return runs / name


@pytest.fixture
def job(tmp_path):
    """job(stage="all", name="x", **settings) runs the tiny main job in a temporary folder and returns the run's."""
    return partial(run_job, tmp_path / "runs")


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    return run_job(tmp_path_factory.mktemp("runs"), "tokenizer")


@pytest.fixture
def tokenizer_run(trained, tmp_path) -> Path:
    """What job("tokenizer") returns, trained once for all tests."""
    return copytree(trained, tmp_path / "runs" / "x")
