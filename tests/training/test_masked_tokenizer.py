"""Masked training of a continuous tokenizer by the main job: what learns, what is logged, what can follow."""

import math

import numpy as np
import pytest
import torch

from robustok import load_tokenizer
from robustok.core.errors import UserError
from robustok.data.latents import open_latents
from robustok.train import main
from robustok.training.run import read_log

TINY = {
    **{"family.tokenizer": "maetok", "family.generator": "sit", "device": "cpu", "log_every": 1},
    **{"data.val": 100, "data.test": 150, "classifier.epochs": 1, "classifier.batch_size": 128},
    **{"maetok.image_size": 32, "maetok.patch_size": 8, "maetok.width": 32, "maetok.depth": 1, "maetok.heads": 2},
    **{"maetok.num_latents": 16, "maetok.latent_width": 8, "maetok.auxiliary_width": 16, "maetok.auxiliary_depth": 1},
    **{"maetok.auxiliary_heads": 2, "maetok.layer_scale": "null", "losses.perceptual": 0.1},
    **{"tokenizer_training.batch_size": 128, "tokenizer_training.lr": 0.002, "tokenizer_training.warmup_epochs": 0.1},
}


@pytest.fixture
def job(tmp_path):
    """job(**settings) trains the tokenizer in a temporary folder and returns the run's."""

    def run(stage: str = "tokenizer", **settings):
        options = {**TINY, "runs": tmp_path, "name": "x", "stage": stage, "tokenizer_training.epochs": 1}
        options |= {key.replace("__", "."): value for key, value in settings.items()}
        main([part for key, value in options.items() for part in (f"--{key}", str(value))])
        return tmp_path / "x"

    return run


def lines(run) -> list[dict]:
    return [line for line in read_log(run / "log.jsonl") if line["stage"] == "tokenizer"]


def test_a_continuous_tokenizer_learns_and_gives_latents(job):
    """Losses of all targets fall; with the adversary on and noise on the latents; then latents of the images."""
    settings = {"perturbation.kind": "gaussian", "perturbation.strength": 0.3, "losses.adversarial_start": 0.7}
    run = job(**settings)
    job("tokens", **settings)
    log = lines(run)
    for name in ("reconstruction", "hog", "teacher"):
        assert log[-1][name] < 0.95 * log[0][name], name
    assert {"adversarial", "discriminator", "psnr"} <= log[-1].keys() and "adversarial" not in log[0]
    latents = open_latents(run / "tokens")
    assert latents.latents.shape[1:] == (16, 8) and torch.isfinite(latents.std).all()
    tokenizer = load_tokenizer(run / "tokenizer")
    assert tokenizer.config.target_widths == (108, 64)
    flat = torch.from_numpy(latents.latents[:]).double().flatten(0, 1)
    np.testing.assert_allclose(latents.mean, flat.mean(0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["interpolate", "mask"])
def test_a_step_is_the_same_in_micro_batches(job, kind):
    """Hidden patches and noise belong to the image, not to the batch it comes in."""
    settings = {"tokenizer_training.epochs": 0.2, "perturbation.kind": kind, "perturbation.beta": 0.5}
    if kind != "mask":
        settings["perturbation.strength"] = 0.5
    whole = lines(job(**settings))
    parts = lines(job(name="y", **settings, **{"tokenizer_training.accumulate": 4}).parent / "y")
    assert len(whole) == len(parts) > 0
    for a, b in zip(whole, parts, strict=True):
        for name in ("reconstruction", "hog", "teacher"):
            assert math.isclose(a[name], b[name], rel_tol=1e-3), name


def test_from_an_epoch_on_all_patches_are_seen(job, monkeypatch):
    from robustok.training.stages import masked_tokenizer

    seen = []
    original = masked_tokenizer.masked_loss
    monkeypatch.setattr(masked_tokenizer, "masked_loss", lambda p, t, h: seen.append(h) or original(p, t, h))
    job(**{"maetok.hidden_until": 0.5})
    steps = [hidden is None for hidden in seen[::2]]
    assert steps == sorted(steps) and 0 < sum(steps) < len(steps)


def test_training_goes_on_from_a_stored_tokenizer_with_other_targets(job):
    run = job()
    again = job(name="z", start__tokenizer=run / "tokenizer", maetok__targets='["hog"]').parent / "z"
    first, later = lines(run), lines(again)
    assert "teacher" not in later[0]
    assert later[0]["reconstruction"] < 0.7 * first[0]["reconstruction"]
    with pytest.raises(UserError, match=r"maetok\.latent_width: stored 8, now 4"):
        job(name="w", start__tokenizer=run / "tokenizer", maetok__latent_width=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"maetok.hidden": "[0.6, 0.4]"}, "the smaller first"),
        ({"maetok.targets": "[]"}, "hidden for auxiliary decoders"),
        (
            {"perturbation.kind": "neighbor"},
            r"perturbation\.kind: found neighbor, .* expected gaussian, interpolate",
        ),
        ({"perturbation.kind": "gaussian"}, r"perturbation\.strength: found None, expected a number in \[0, inf\)"),
        (
            {"perturbation.kind": "interpolate", "perturbation.strength": 1.5},
            r"found 1\.5, expected a number in \[0, 1\]",
        ),
        ({"perturbation.strength": 0.1}, r"perturbation\.strength: found 0\.1, expected null"),
        ({"maetok.image_size": 36}, r"multiple of maetok\.patch_size"),
        ({"family.generator": "rar"}, "generator of tokens cannot be trained"),
    ],
)
def test_settings_that_cannot_work_are_refused(job, settings, message):
    with pytest.raises(UserError, match=message):
        job(**settings)
