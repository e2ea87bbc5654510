"""From images of 24 x 16 pixels to the report and on: every verb on what is no square."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustok import Generator, Tokenizer, load_tokenizer
from robustok.convert import main as convert
from robustok.core.errors import UserError
from robustok.data.tokens import open_tokens
from robustok.evaluate import main as evaluate
from robustok.pretokenize import main as pretokenize
from robustok.sample import main as sample

from .conftest import run_job

TALL = {"tokenizer.image_size": "[24,16]", "data.val": 4, "data.test": 4, "perturbation.delta": 4}
SHORT = {
    **{f"{stage}.batch_size": 16 for stage in ("classifier", "tokenizer_training", "generator_training")},
    **{"post_training.batch_size": 16, "codebook.continuous_steps": 0, "tokenizer.codebook_size": 32},
    **{"evaluation.samples_per_class": 2, "tokenizer_training.epochs": 1, "generator_training.epochs": 1},
    **{"losses.adversarial_start": 0, "classifier.epochs": 1, "post_training.epochs": 1, "stopping.every_epochs": 0.5},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two classes of 24 photos, taller and wider than 3 : 2."""
    root, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, name in enumerate(("dark", "bright")):
        (root / name).mkdir()
        for number in range(24):
            height, width = draw.integers(24, 50, 2)
            pixels = draw.integers(100 * label, 100 * label + 155, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    return run_job(runs, **TALL, **SHORT, **{"data.root": photos, "family.generator": "llamagen"}, **LLAMAGEN)


LLAMAGEN = {"llamagen.width": 16, "llamagen.depth": 1, "llamagen.heads": 2, "llamagen.mlp_width": 16}


def test_the_main_job_ends_in_a_report(run):
    assert "24 x 16 pixels" in (run / "report.html").read_text()
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert np.isfinite([metrics["tokenizer"]["rfd"], metrics["post"]["gfd"]]).all()
    assert open_tokens(run / "tokens").tokens.shape == (40, 6)


def test_models_are_used_and_passed_on(run, tmp_path):
    tokenizer, generator = Tokenizer.from_pretrained(run / "post"), Generator.from_pretrained(run / "generator")
    assert (tokenizer.image_size, tokenizer.grid) == ((24, 16), (3, 2))
    assert generator.config.rows == 3
    tokens = generator.generate(torch.tensor([0, 1]), seed=0, guidance_scale=1.0)
    assert tokenizer.detokenize(tokens).shape == (2, 3, 24, 16)
    tokenizer.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").image_size == (24, 16)
    convert([str(run / "post"), str(tmp_path / "larger"), "--image_size", "[48,32]"])
    assert load_tokenizer(tmp_path / "larger").grid == (6, 4)
    with pytest.raises(UserError, match="no published layout"):
        convert([str(run / "post"), str(tmp_path / "theirs"), "--to", "upstream"])


def test_verbs(run, photos, tmp_path, capsys):
    classifier = ["--network", "classifier", "--weights", str(run / "classifier")]
    tokenizer = str(run / "post")
    pretokenize([str(photos), str(tmp_path / "tokens"), "--tokenizer", tokenizer, "--augment", "tencrop"])
    assert open_tokens(tmp_path / "tokens").tokens.shape == (480, 6)
    output = ["--output", str(tmp_path / "rfd")]
    evaluate(["tokenizer", tokenizer, "--images", str(photos), *classifier, "--pfid", "none", *output])
    pair = ["--generator", str(run / "generator"), "--tokenizer", tokenizer]
    sample([*pair, "--n", "4", "--save", "png", "--output", str(tmp_path / "samples")])
    made = [Image.open(path).size for path in (tmp_path / "samples").rglob("*.png")]
    assert made == [(16, 24)] * 4


def test_a_run_starts_from_a_tokenizer_of_another_size(run, photos, tmp_path):
    settings = TALL | SHORT | {"data.root": photos, "start.tokenizer": run / "post", "start.image_size": "[16,24]"}
    settings |= {"tokenizer.image_size": "[16,24]"}
    begun = run_job(tmp_path, "tokenizer", **settings)
    assert load_tokenizer(begun / "tokenizer").image_size == (16, 24)
    with pytest.raises(UserError, match=r"tokenizer.image_size: stored \[24, 16\], now \[16, 24\]"):
        run_job(tmp_path, "tokenizer", name="y", **settings | {"start.image_size": "[24,16]"})
