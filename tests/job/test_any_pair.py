"""Pairs and post-training of any tokenizer with any generator of its kind, each from a stored model."""

from dataclasses import asdict
from pathlib import Path
from shutil import rmtree

import pytest
import torch

from robustok import load_tokenizer
from robustok.checkpoints import reading
from robustok.checkpoints.writing import save
from robustok.core.errors import UserError
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


def flow_pair(folder: Path) -> dict:
    """The settings of a run that starts from a continuous tokenizer and a flow generator."""
    start = {"start.tokenizer": store(folder, "maetok", MAETOK), "start.generator": store(folder, "sit", SIT, 0.2)}
    return (
        start
        | {"family.tokenizer": "maetok", "family.generator": "sit"}
        | {"maetok.image_size": 16, "maetok.patch_size": 4}
    )


def test_post_training(job, tmp_path):
    """The decoder learns from both kinds of pairs; nothing of the encoder side changes."""
    start = flow_pair(tmp_path)
    run = job("pairs", **start)
    for mode in ("direct", "reencode"):
        assert open_rows(run / "pairs" / mode).rows.shape == (257, 8, 4)
    job("post", **start, **{"discriminator_warmup.epochs": 2})
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


def test_a_new_discriminator_is_warmed_up_and_resumes_to_the_bit(job, tmp_path):
    """It is logged under its own name, learns, and is what post-training goes on from."""
    start = flow_pair(tmp_path) | {"pairs.modes": "[direct]", "post_training.save_every": 2}
    job("pairs", **start)
    run = job("post", **start)
    log = [line for line in read_log(run / "log.jsonl") if line["stage"] == "discriminator"]
    assert [line["step"] for line in log] == [1, 2, 3, 4] and log[-1]["discriminator"] < log[0]["discriminator"]
    warmed = reading.load(run / "discriminator/step-4", "model", "training")
    first = reading.load(run / "post/step-2", "discriminator", "training")
    assert warmed[0].keys() == first[0].keys() and warmed[1]["extra.lecam"].abs().sum() > 0
    for name, tensor in warmed[0].items():  # two steps at a rate of 1e-5 away from it
        assert (first[0][name] - tensor).abs().max() < (0.2 if name.endswith(("_u", "_v")) else 1e-3), name
    expected = tensors(run)
    for stage in ("discriminator", "post"):
        rmtree(run / stage / "step-4")
        (run / stage / "stage.json").unlink()
    job("post", **start)
    found = tensors(run)
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []
    with pytest.raises(UserError, match=r"discriminator_warmup\.lr: stored 0\.0002, now 0\.1"):
        job("post", **start, **{"discriminator_warmup.lr": 0.1})


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """All that the last checkpoints of both stages hold."""
    files = [file for stage in ("discriminator", "post") for file in (run / stage / "step-4").glob("*.safetensors")]
    return {
        f"{file.parent.parent.name}/{file.stem}/{name}": tensor
        for file in files
        for name, tensor in reading.load(file.parent, file.stem)[0].items()
    }
