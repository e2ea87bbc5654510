"""Settings and data that cannot work are refused before anything is written, with what was found and expected."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml
from PIL import Image

from robustok.config import RunConfig
from robustok.core.errors import UserError
from robustok.job.command_line import setting_names
from robustok.model_configs import TokenizerConfig
from robustok.models.load import open_checkpoint
from robustok.models.starting import shape_settings
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.presets import preset_path
from robustok.train import main

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--tokenizer.codebok_size", "5"], r"'tokenizer\.codebok_size': the nearest .* 'tokenizer\.codebook_size'"),
        (["--perturbation.alpha", "1.5"], r"perturbation\.alpha: found 1\.5, expected a number in \[0, 1\]"),
        (["--perturbation.beta", "-0.1"], r"perturbation\.beta: found -0\.1"),
        (["--perturbation.delta", "0"], r"perturbation\.delta: found 0, expected a whole number in"),
        (["--perturbation.kind", "gaussian"], r"perturbation\.strength: found None, expected a number in"),
        (["--perturbation.strength", "0.2"], r"perturbation\.strength: found 0\.2, expected null: .* neighbor"),
        (["--perturbation.delta", "257"], r"perturbation\.delta: found 257.* 256"),
        (["--tokenizer.image_size", "33"], r"tokenizer\.image_size: found 33, expected a multiple"),
        (
            ["--tokenizer_training.batch_size", "2000", "--dry_run"],
            r"batch_size: found 2000, expected at most the 1297",
        ),
        (["--data.root", "/no/such/folder", "--dry_run"], r"/no/such/folder"),
        (["--tokenizer.width", "many"], r"tokenizer\.width"),
        (["--tokenizer.num_latents", "7"], r"num_latents .* found 7"),
        (["--flow_sampling.steps", "0"], r"flow_sampling\.steps: found 0, expected a whole number in"),
        (
            ["--family.generator", "sit", "--sit.heads", "5"],
            r"sit\.width: found 768, expected a multiple of sit\.heads = 5",
        ),
        (["--log_every", "0"], r"log_every: found 0, expected a whole number in \[1, inf\)"),
        (["--device", "cuda:7"], r"cuda"),
        (["--seed", "-1", "--dry_run"], r"seed: found -1, expected a whole number in \[0, 2\*\*63\)"),
        (["--seed", str(2**63)], r"seed: found 9223372036854775808, expected a whole number in"),
        (["--data.split_seed", "-3"], r"data\.split_seed: found -3"),
        (["--device", "mps", "--dry_run"], r"device: found 'mps', expected auto"),
        (
            ["--frozen.lpips", "/no/such/folder"],
            r"frozen\.lpips: found /no.*, expected a path that is a folder",
        ),
    ],
)
def test_bad_settings(argv, message, tmp_path):
    with pytest.raises(UserError, match=message):
        main(["--runs", str(tmp_path / "runs"), "--stage", "tokenizer", *argv])
    assert not (tmp_path / "runs").exists()


def test_one_class_is_refused_where_a_classifier_would_stand_in(tmp_path, capsys):
    (tmp_path / "cats").mkdir()
    for number in range(8):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "cats" / f"{number}.png")
    argv = ["--data.root", str(tmp_path / "cats"), "--data.val", "2", "--data.test", "2", "--runs", str(tmp_path / "r")]
    stages = ("classifier", "tokenizer_training", "generator_training", "post_training")
    argv += [part for name in stages for part in (f"--{name}.batch_size", "4")]
    argv += ["--codebook.continuous_steps", "0", "--dry_run"]
    message = r"holds one class \(cats\), and frozen\.dinov2, frozen\.dino, frozen\.lpips name no pretrained"
    with pytest.raises(UserError, match=message):
        main(argv)
    assert main([*argv, "--stage", "generator"]) == 0  # looks through no network
    paths = {"dinov2": tmp_path / "cats" / "0.png", "dino": tmp_path / "cats" / "0.png", "lpips": tmp_path / "cats"}
    named = [part for name, path in paths.items() for part in (f"--frozen.{name}", str(path))]
    unopened = ["--losses.adversarial", "0"]  # else the backbone is opened, as its size decides the discriminator's
    assert main([*argv, *named, *unopened, "--perturbation.beta", "0"]) == 0
    with pytest.raises(UserError, match=r"and frozen\.lpips name no"):
        main([*argv, *named[:-2]])


def test_unknown_key_in_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("tokenizer:\n  widht: 64\n")
    with pytest.raises(UserError, match=r"'tokenizer\.widht': the nearest valid setting is 'tokenizer\.width'"):
        main(["--config", str(file), "--dry_run"])


def test_a_batch_too_small_to_perturb_warns():
    with pytest.warns(UserWarning, match="less than one image: no latent is perturbed"):
        main(["--dry_run", "--tokenizer_training.batch_size", "8"])


def test_the_default_settings_are_fine(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main(["--dry_run"])
    out = capsys.readouterr().out
    assert "1297 images to train on, 200 for validation, 300 to test, 10 classes" in out
    assert "tokenizer: 30 epochs of 20 steps, 600 in all, each of 64 images; tokenizer of 1.6 million parameters" in out


def test_a_run_that_is_too_short_for_its_settings_is_told_so():
    with pytest.warns(UserWarning, match="the adversarial loss never starts"):
        main(["--dry_run", "--tokenizer_training.epochs", "20", "--stage", "tokenizer"])


def test_every_dotted_setting_is_an_option():
    names = setting_names()
    assert {"seed", "data.root", "tokenizer.codebook_size", "post_training.lr"} <= set(names)


def test_command_line_gives_one_message_and_exit_code_2():
    result = subprocess.run(
        [sys.executable, "-m", "robustok.train", "--perturbation.alpha", "2"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["robustok: perturbation.alpha: found 2.0, expected a number in [0, 1]"]


@pytest.mark.parametrize("preset", ["robustok-b", "rar-b", "rar-l", "robustok-b-post"])
def test_a_preset_is_complete_without_the_demo(preset, capsys):
    """Settings of the digits demo do not leak into another file's."""
    with pytest.raises(SystemExit):
        main(["--config", str(preset_path(preset)), "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["tokenizer_training"]["clip_norm"] is None
    assert printed["log_every"] == RunConfig().log_every
    assert printed["tokenizer"]["codebook_size"] == 4096


def test_a_released_tokenizer_has_the_shape_of_its_settings():
    """Settings that leave the decoder and the number of latents to their defaults still fit a released file."""
    released = open_checkpoint(GOLDEN / "tokenizer_ckpt.pt", num_heads=2).config
    shape = {"image_size": 256, "patch_size": 16, "width": 64, "depth": 2, "heads": 2}
    assert shape_settings(TokenizerConfig(**shape, codebook_size=512, code_width=16)) == shape_settings(released)
    assert shape_settings(TokenizerConfig(**shape, codebook_size=512, code_width=8)) != shape_settings(released)


def test_digits_is_a_word_for_the_digits_as_in_other_verbs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["--data.root", "digits", "--data.val", "200", "--stage", "classifier", "--dry_run"])
    assert "200 for validation" in capsys.readouterr().out
    (tmp_path / "digits").mkdir()
    with pytest.raises(UserError, match=r"write sklearn:digits for the former and \./digits for"):
        main(["--data.root", "digits", "--stage", "classifier", "--dry_run"])


def test_a_started_tokenizer_of_another_shape_is_refused_before_the_run(tmp_path):
    sizes = {"width": 64, "depth": 1, "heads": 2, "codebook_size": 64, "code_width": 8}
    stored = ViTTokenizer(TokenizerConfig(image_size=32, patch_size=16, layer_scale=None, **sizes))
    stored.save_pretrained(tmp_path / "tokenizer")
    argv = ["--dry_run", "--stage", "tokenizer", f"--start.tokenizer={tmp_path / 'tokenizer'}"]
    argv += [f"--tokenizer.{name}={value}" for name, value in sizes.items()]
    says = r"start\.tokenizer: .* another config:(.|\n)*\n  tokenizer\.patch_size: stored 16, now 8\ngive the run these"
    with pytest.raises(UserError, match=says):
        main(argv)
    assert main([*argv, "--tokenizer.patch_size", "16"]) == 0
