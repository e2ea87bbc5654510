"""Bad settings as they are typed: each is refused in one message that names the setting, and nothing is written."""

import pytest

from robustok.core.errors import UserError
from robustok.job.command_line import parse_run_config, run_config_parser
from robustok.presets import preset_path
from robustok.train import main

BAD = [
    ("--tokenizer.image_size -32", r"tokenizer\.image_size: found -32, expected"),
    ("--tokenizer.depth -1", r"tokenizer\.depth: found -1, expected a whole number in \[1, 1024\]"),
    ("--tokenizer.heads 0", r"tokenizer\.heads: found 0"),
    ("--tokenizer.patch_size 0", r"tokenizer\.patch_size: found 0"),
    ("--tokenizer.width 0", r"tokenizer\.width: found 0"),
    ("--tokenizer.codebook_size 70000 --codebook.continuous_steps 0", "70000 codes, .* at most 65536"),
    ("--evaluation.samples_per_class 0", r"evaluation\.samples_per_class: found 0"),
    ("--frozen.dino /no/such/file.pth", r"frozen\.dino: found /no/such/file\.pth, expected a path that"),
    ("--tokenizer_training.betas [2,3]", r"tokenizer_training\.betas: found .* expected 2 numbers in \[0, 1\)"),
    ("--post_training.weight_decay -0.1", r"post_training\.weight_decay: found -0\.1"),
    ("--generator_training.lr=-1e-3", r"generator_training\.lr: found -0\.001, expected a number in \(0, 1\]"),
    ("--classifier.warmup_epochs -1", r"classifier\.warmup_epochs: found -1"),
    ("--sampling.top_k -1", r"sampling\.top_k: found -1"),
    ("--seed -1", r"seed: found -1"),
    ("--seed true", r"seed: found True, expected a whole number"),
    ("--name a\0b", r"name: found 'a\\x00b', expected the name of one folder"),
    ("--name ../x", r"name: found '\.\./x', expected the name of one folder"),
    ("--name=", r"name: found '', expected the name of one folder"),
    ("--device cuda:77", r"device: found 'cuda:77', .* torch sees"),
    ("--losses.vq .nan", r"losses\.vq: found nan, expected a number in \[0, inf\)"),
    ("--losses.vq inf", r"losses\.vq: found inf, expected a number in \[0, inf\)"),
    ("--losses.vq true", r"losses\.vq: found True, expected a number"),
    ("--perturbation.kind foo", r"perturbation\.kind: found foo, expected one of neighbor, .* or null"),
    ("--data.flip maybe", r"data\.flip: found maybe, expected true or false"),
    ("--data.val 1", r"data\.val: found 1, expected a whole number in \[2, inf\) or null"),
    ("--pairs.modes []", r"pairs\.modes: found \(\), expected one or more of reencode, direct"),
]


IN_THE_DRY_RUN = ("--device", "--frozen", "--tokenizer.codebook_size")  # what no setting can know of itself alone


@pytest.fixture(scope="module")
def parser():
    return run_config_parser("test", str(preset_path("digits")))


@pytest.mark.parametrize(("argv", "message"), BAD, ids=[argv for argv, _ in BAD])
def test_it_is_refused(argv, message, parser, tmp_path):
    argv = ["--runs", str(tmp_path / "runs"), *argv.split(" ")]
    with pytest.raises(UserError, match=message):
        main([*argv, "--dry_run"]) if argv[2].startswith(IN_THE_DRY_RUN) else parse_run_config(parser, argv)
    assert not any(tmp_path.iterdir())


def test_a_section_that_is_no_mapping_is_named_with_its_file(tmp_path):
    (tmp_path / "bad.yaml").write_text("pairs: 5\n")
    with pytest.raises(UserError, match=r"bad\.yaml: pairs: found 5, expected a section of settings"):
        main(["--config", str(tmp_path / "bad.yaml"), "--dry_run"])
