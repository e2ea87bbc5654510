"""Pairs and post-training of any tokenizer with any generator of its kind, each from a stored model."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from robustok import load_tokenizer
from robustok.checkpoints.writing import save
from robustok.data.latents import open_rows
from robustok.model_configs import MAETokConfig, SiTConfig
from robustok.models.registry import FAMILIES
from robustok.train import main
from robustok.training.run import read_log

SETTINGS = {
    **{"device": "cpu", "log_every": 1, "data.val": 100, "data.test": 1440, "evaluation.samples_per_class": 2},
    **{"classifier.epochs": 1, "classifier.batch_size": 64, "losses.perceptual": 0.1},
    **{"pairs.sigma": 0.6, "sampling.batch_size": 64, "flow_sampling.batch_size": 64, "flow_sampling.steps": 2},
    **{"post_training.epochs": 1, "post_training.batch_size": 64, "post_training.lr": 0.005},
    **{"post_training.warmup_epochs": 0, "stopping.every_epochs": 1},
}
MAETOK = MAETokConfig(
    image_size=16, patch_size=4, width=32, depth=1, heads=2, layer_scale=None, num_latents=8, latent_width=4
)
SIT = SiTConfig(width=16, depth=1, heads=2, num_classes=10, num_latents=8, latent_width=4)


def store(folder: Path, kind: str, config, spread: float | None = None) -> Path:
    """A model with random weights, stored under its kind; spread: of all of them, else as they begin training."""
    torch.manual_seed(0)
    model = FAMILIES[kind].build(config)
    if spread is not None:
        for parameter in model.parameters():
            parameter.data.normal_(0, spread)
    state = model.state_dict()
    save(folder / kind, {"model": state, "ema": state}, {"config": {"kind": kind, "config": asdict(config)}})
    return folder / kind


@pytest.fixture
def job(tmp_path):
    """job(stage, **settings) runs a stage and returns the run's folder."""

    def run(stage: str, name: str = "x", **settings) -> Path:
        options = {**SETTINGS, "runs": tmp_path / "runs", "name": name, "stage": stage}
        options |= {key.replace("__", "."): value for key, value in settings.items()}
        main([part for key, value in options.items() for part in (f"--{key}", str(value))])
        return tmp_path / "runs" / name

    return run


def test_post_training(job, tmp_path):
    """The decoder learns from both kinds of pairs; nothing of the encoder side changes."""
    start = {"start.tokenizer": store(tmp_path, "maetok", MAETOK), "start.generator": store(tmp_path, "sit", SIT, 0.2)}
    start |= {"family.tokenizer": "maetok", "family.generator": "sit", "maetok.image_size": 16, "maetok.patch_size": 4}
    run = job("pairs", **start)
    for mode in ("direct", "reencode"):
        assert open_rows(run / "pairs" / mode).rows.shape == (257, 8, 4)
    job("post", **start)
    before = load_tokenizer(start["start.tokenizer"])
    encoder = {name for name, _ in before.named_parameters() if not name.startswith("decoder.")}
    for stage in ("post", "post-direct"):
        log = [line for line in read_log(run / "log.jsonl") if line["stage"] == stage and "psnr" in line]
        assert log[-1]["reconstruction"] < 0.7 * log[0]["reconstruction"]
        after = load_tokenizer(run / stage / f"step-{log[-1]['step']}", "model")
        same = {
            name
            for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
            if torch.equal(old, new)
        }
        assert encoder <= same and len(same) < 0.8 * len(list(before.parameters()))
