"""The main job with a continuous tokenizer and a flow generator, tiny: all stages, and what the report says of them."""

import json
import re

import pytest

from robustok import load_tokenizer
from robustok.data.latents import open_latents
from robustok.presets import preset_path
from robustok.train import main

LATENTS = {
    "data.val": 1300,  # few to train on
    "log_every": 1,
    "family.tokenizer": "maetok",
    "family.generator": "sit",
    "maetok.image_size": 32,
    "maetok.patch_size": 8,
    "maetok.width": 64,
    "maetok.depth": 1,
    "maetok.heads": 2,
    "maetok.num_latents": 8,
    "maetok.latent_width": 4,
    "maetok.auxiliary_width": 16,
    "maetok.auxiliary_depth": 1,
    "maetok.auxiliary_heads": 2,
    "sit.width": 32,
    "sit.depth": 1,
    "sit.heads": 2,
    "flow_sampling.steps": 2,
}


def test_a_run_on_latents_goes_from_images_to_a_report(job):
    run = job(**LATENTS)
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert not {"pfd", "codebook_usage"} & metrics["tokenizer"].keys() and metrics["tokenizer"]["psnr"] > 5
    for stage in ("tokenizer", "generator", "post", "post_direct"):
        table = metrics[stage]["nfd_table"]
        assert [strength for strength, _ in table] == [0.1, 0.2, 0.3, 0.4, 0.5]
        assert metrics[stage]["nfd"] == pytest.approx(sum(value for _, value in table) / 5)
    for stage in ("generator", "post", "post_direct"):
        assert metrics[stage]["gfd"] > 0 and 0 <= metrics[stage]["class_agreement"] <= 1
    latents, pairs = open_latents(run / "tokens"), open_latents(run / "pairs" / "direct")
    assert latents.rows.shape == pairs.rows.shape == (metrics["images"]["train"], 8, 4)
    before, after = load_tokenizer(run / "tokenizer"), load_tokenizer(run / "post", "model")
    assert all((a == b).all() for a, b in zip(before.encoder_parameters(), after.encoder_parameters(), strict=True))
    report = (run / "report.html").read_text()
    assert not re.search(r"(src|href)=['\"](?!data:)", report)
    assert "Tokenizer (maetok): 8 latents x 4" in report and "nFD, setting by setting" in report


def test_the_settings_of_the_second_demo_fit(capsys):
    assert main(["--config", str(preset_path("digits-flow")), "--dry_run"]) == 0
    assert "demo-flow" in capsys.readouterr().out
