"""A main job small enough for a test: the digits, tiny networks, a few steps a stage."""

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


@pytest.fixture
def job(tmp_path):
    """job(stage="all", name="x", **settings) runs the tiny main job in a temporary folder and returns the run's."""

    def run(stage: str = "all", name: str = "x", extra: tuple[str, ...] = (), **settings):
        options = {**TINY, "runs": tmp_path / "runs", "name": name, "stage": stage}
        options |= {key.replace("__", "."): value for key, value in settings.items()}
        argv = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        main([*argv, *extra])
        return tmp_path / "runs" / name

    return run
