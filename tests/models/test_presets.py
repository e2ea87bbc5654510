"""The presets hold the published hyper-parameters (METHOD: arXiv 2509.12474 and the released recipe)."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from robustok.config import RunConfig
from robustok.core.setting_names import with_new_names
from robustok.job.command_line import parse_run_config, run_config_parser
from robustok.job.decisions import OPEN
from robustok.models.registry import FAMILIES
from robustok.presets import FOLDER, preset_path, read_settings

PUBLISHED = {
    "robustok-b": {
        "tokenizer": dict(
            image_size=256,
            patch_size=16,
            width=768,
            depth=12,
            heads=12,
            drop_path=0.1,
            num_latents=256,
            codebook_size=4096,
            code_width=64,
            normalize=True,
            codebooks=1,
            scales=None,
        ),
        "perturbation": dict(
            alpha=1.0, beta=0.1, delta=100, neighbors="latent", anneal_start=40, anneal_end=120, anneal_end_ratio=0.5
        ),
        "losses": dict(
            reconstruction=1.0,
            perceptual=1.0,
            vq=1.0,
            commit=0.25,
            semantic=0.1,
            adversarial=0.5,
            adversarial_start=56,
            lecam=0.001,
        ),
        "tokenizer_training": dict(
            epochs=200,
            batch_size=1024,
            lr=2.4e-4,
            min_lr=5e-5,
            warmup_epochs=1,
            betas=(0.9, 0.95),
            weight_decay=0.0,
            ema=0.9999,
        ),
        "discriminator": dict(lr=8e-4, min_lr=5e-5, warmup_epochs=4, weight_decay=5e-4),
        "data": dict(crop_min=0.8, crop_max=1.0, flip=True),
    },
    "rar-b": {
        "generator": dict(width=768, depth=24, heads=16, mlp_width=3072, dropout=0.1, class_dropout=0.1),
        "generator_training": dict(
            batch_size=2048, lr=4e-4, min_lr=1e-5, betas=(0.9, 0.96), weight_decay=0.03, clip_norm=1.0
        ),
        "sampling": dict(guidance_scale=6.0, guidance_power=1.15, temperature=1.02, top_k=0, top_p=1.0),
    },
    "rar-l": {
        "generator": dict(width=1024, depth=24, heads=16, mlp_width=4096),
        "sampling": dict(guidance_scale=6.75, guidance_power=1.01, temperature=1.04),
    },
    "llamagen-b": {
        "family": dict(generator="llamagen"),
        "llamagen": dict(
            width=768, depth=12, heads=12, mlp_width=2048, dropout=0.1, token_dropout=0.1, class_dropout=0.1
        ),
        "generator_training": dict(
            epochs=300,
            batch_size=256,
            lr=1e-4,
            min_lr=1e-4,
            warmup_epochs=0,
            betas=(0.9, 0.95),
            weight_decay=0.05,
            clip_norm=1.0,
        ),
        "sampling": dict(guidance_scale=2.0, guidance_power=None, temperature=1.0, top_k=0, top_p=1.0),
        "pairs": dict(sigma=0.95),
    },
    "llamagen-l": {
        "llamagen": dict(width=1024, depth=24, heads=16, mlp_width=2816),
        "sampling": dict(guidance_scale=2.0, guidance_power=None),
    },
    "robustok-b-post": {
        "pairs": dict(sigma=0.7),
        "post_training": dict(lr=5e-5, min_lr=1e-5, warmup_epochs=1, weight_decay=0.0, ema=0.9999),
        "post_discriminator": dict(lr=5e-5, min_lr=1e-5, warmup_epochs=2),
    },
}


def preset(name: str):
    return parse_run_config(run_config_parser("test", str(preset_path(name))), [])[0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name):
    config = preset(name)
    for section, values in PUBLISHED[name].items():
        found = vars(getattr(config, section))
        assert {key: found[key] for key in values} == values, section


@pytest.mark.parametrize(("name", "parameters"), [("rar-b", 261e6), ("rar-l", 461e6)])
def test_generator_sizes(name, parameters):
    """The published parameter counts, and the annealing and warm-up at the published steps (625 an epoch)."""
    import torch

    config = preset(name)
    with torch.device("meta"):
        generator = FAMILIES["rar"].build(config.generator)
    assert sum(p.numel() for p in generator.parameters()) == pytest.approx(parameters, rel=0.03)
    assert (config.order.anneal_start * 625, config.order.anneal_end * 625) == (125_000, 187_500)
    assert config.generator_training.epochs * 625 == 250_000
    assert config.generator_training.warmup_epochs * 625 == 62_500


def test_presets_of_one_run_share_the_tokenizer():
    """The later stages find the first one's result only where these sections are the same."""
    documents = [read_settings(preset_path(name)) for name in PUBLISHED]
    for key in ("name", "data", "precision", *(k for k in PUBLISHED["robustok-b"] if k != "data")):
        assert all(document[key] == documents[0][key] for document in documents), key


def test_every_value_of_every_preset_is_as_it_was_published():
    """A preset may be based on another: what it resolves to stays what its whole file said. Settings that came later
    stay at their defaults; what a preset leaves open is decided from the data."""
    recorded = json.loads((Path(__file__).parents[1] / "golden" / "presets.json").read_text())
    assert recorded.keys() <= {path.stem for path in FOLDER.glob("*.yaml")}
    defaults = json.loads(json.dumps(asdict(RunConfig())))
    for name, stored in recorded.items():
        settings = with_new_names(stored)
        resolved = json.loads(json.dumps(asdict(preset(name))))
        for key, default in defaults.items():
            said = settings.get(key, default)
            if isinstance(said, dict):
                given = read_settings(preset_path(name)).get(key, {})
                left_open = [setting for setting in default if f"{key}.{setting}" in OPEN]
                said = default | said | {s: given.get(s, default[s]) for s in left_open}
                assert all(given[s] == settings[key][s] for s in left_open if s in given and s in settings.get(key, {}))
            assert resolved[key] == said, (name, key)
