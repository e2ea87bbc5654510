"""What a run's settings leave open is decided from its images and its device: on the digits as the demo's file says."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from robustok.config import RunConfig
from robustok.core.errors import UserError
from robustok.core.settings import check_config, walk
from robustok.data.images import open_images
from robustok.data.splits import split_sizes
from robustok.job.command_line import parse_run_config, run_config_parser
from robustok.job.decisions import OPEN, as_begun, decided, lines
from robustok.job.outline import Outline
from robustok.job.outlook import never
from robustok.job.preflight import check_run, check_settings
from robustok.job.registry import STAGES
from robustok.presets import preset_path
from robustok.train import main


def settings_of(preset: str, *argv: str) -> RunConfig:
    return parse_run_config(run_config_parser("test", str(preset_path(preset))), list(argv))[0]


def images_of(count: int, classes: int = 4):
    """As many images of as many classes as asked for, as far as decisions look at them."""
    labels = torch.arange(count) % classes
    val, test = split_sizes(labels.numpy(), None, None)
    parts = {"all": labels, "val": labels[:val], "test": labels[val : val + test], "train": labels[val + test :]}
    names = [str(i) for i in range(classes)]
    return SimpleNamespace(**parts, asked=(val, test), num_classes=classes, class_names=names)


def value_of(config: RunConfig, name: str):
    section, setting = name.split(".")
    return getattr(getattr(config, section), setting)


def test_on_the_digits_it_is_what_the_demo_says():
    """The demo's numbers were tried out by hand; nothing but the rates would differ from them."""
    demo, open_ = settings_of("digits"), settings_of("images", "--data.val", "200", "--data.test", "300")
    config, _ = decided(open_, open_images(demo.data, 32), 1, "cpu")
    given = {name for name in OPEN if value_of(demo, name) is not None}
    assert len(given) > 35
    ours = given - {f"{stage}.save_every" for stage in ("classifier", "tokenizer_training", "generator_training")}
    ours -= {"post_training.save_every", "discriminator_warmup.epochs", "discriminator_warmup.warmup_epochs"}
    assert {name: value_of(config, name) for name in ours} == {name: value_of(demo, name) for name in ours}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("count", "classes"), [(12, 2), (30, 2), (400, 4), (1797, 10), (20_000, 4), (1_281_167, 1000)])
def test_any_number_of_images_can_train(count, classes, device):
    """Nothing is left open, out of range, or too short for another setting."""
    images = images_of(count, classes)
    config, made = decided(settings_of("images"), images, 1, device)
    assert not [name for name in OPEN if value_of(config, name) is None]
    assert {decision.name for decision in made} == set(OPEN)
    check_config(config)
    check_settings(config)
    outline = Outline(config, images, ("tokenizer", "generator", "post"))
    said = never(outline)  # of ten images to train on a tenth is perturbed, of eight none can be
    assert len(said) == (len(images.train) < 10) and all("less than one image" in sentence for sentence in said)
    for name in ("classifier", "tokenizer_training", "generator_training", "post_training"):
        assert getattr(config, name).batch_size <= len(images.train)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (3, 1), (2, 4), (8, 3)])
def test_batches_fall_into_parts(world, accumulate):
    training = ("--tokenizer_training.accumulate", str(accumulate))
    config, _ = decided(settings_of("images", *training), images_of(4000), world, "cpu")
    assert config.tokenizer_training.batch_size % (world * accumulate) == 0
    assert config.generator_training.batch_size % world == 0


def test_what_is_given_stays_and_others_follow_it():
    given = ("--tokenizer_training.epochs", "10", "--perturbation.anneal_end", "1", "--tokenizer.codebook_size", "1024")
    config, made = decided(settings_of("images", *given), images_of(400), 1, "cpu")
    assert not {"tokenizer_training.epochs", "perturbation.anneal_end"} & {decision.name for decision in made}
    assert (config.losses.adversarial_start, config.perturbation.delta) == (8.0, 25)
    assert (config.perturbation.anneal_start, config.perturbation.anneal_end) == (1.0, 1.0)


def test_reasons_are_said_once():
    _, made = decided(settings_of("images"), images_of(400), 1, "cpu")
    said = lines(made)
    assert len(said) == len({decision.reason for decision in made}) < len(made)
    (batch,) = [line for line in said if "tokenizer_training.batch_size 64" in line]
    assert batch.endswith("300 training images, at least 4 steps an epoch and at most 64 images on a CPU")
    assert "  data.val 40: a tenth of 400 images, 2 to 2000" in said


def test_presets_with_numbers_leave_nothing_to_decide():
    for preset in ("digits", "digits-flow"):
        images = images_of(1797, 10)
        _, made = decided(settings_of(preset), images, 1, "cpu")
        assert {d.name for d in made} <= {"flow_sampling.batch_size", "sampling.batch_size"}


@pytest.mark.parametrize(
    ("labels", "sizes"),
    [
        ([0, 1] * 200, (40, 60)),
        ([0] * 15 + [1] * 15, (3, 4)),
        ([0, 1] * 4, (2, 2)),
        (list(range(50)) * 2, (10, 15)),  # two an image of each class: 50 may be held out
        (list(range(90)) + [0] * 10, (4, 6)),  # 10 may be
        (np.arange(1_000_000) % 1000, (2000, 10_000)),
    ],
)
def test_splits_are_shares_with_bounds(labels, sizes):
    labels = np.asarray(labels)
    assert split_sizes(labels, None, None) == sizes
    assert split_sizes(labels, 7, None)[0] == 7 and split_sizes(labels, None, 9)[1] == 9


@pytest.fixture
def photos(tmp_path):
    """40 images of 3 sizes in 2 classes."""
    for number in range(40):
        folder = tmp_path / "photos" / ("dark", "light")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        size = ((24, 16), (16, 16), (16, 30))[number % 3]
        Image.new("RGB", size, (number % 2 * 200 + number,) * 3).save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_a_few_photos_pass_the_dry_run_with_two_options(photos, tmp_path, capsys):
    main(["--name", "mine", "--data.root", str(photos), "--runs", str(tmp_path / "runs"), "--dry_run"])
    out = capsys.readouterr().out
    assert "30 images to train on, 4 for validation, 6 to test, 2 classes" in out
    assert re.search(r"tokenizer_training\.batch_size 10: 30 training images, .*beta 0\.1 of them at least one", out)
    assert not (tmp_path / "runs").exists()


def test_a_generator_without_its_tokenizer_is_refused(photos, tmp_path):
    """No number of codes is known before the data were looked at, and none that is decided would be the generator's."""
    argv = ["--data.root", str(photos), "--runs", str(tmp_path / "runs"), "--start.generator", "rar.pt", "--dry_run"]
    with pytest.raises(UserError, match=r"start\.generator: found rar\.pt without start\.tokenizer, expected the"):
        main(argv)


def test_a_run_goes_on_as_it_began(photos, tmp_path, capsys):
    """What was decided stands in its config.yaml, and holds whatever would be decided now; what is given is given."""
    argv = ["--name", "mine", "--data.root", str(photos), "--runs", str(tmp_path / "runs"), "--stage", "classifier"]
    main([*argv, "--classifier.epochs", "2"])
    file = tmp_path / "runs" / "mine" / "config.yaml"
    stored = yaml.safe_load(file.read_text())
    assert (stored["data"]["val"], stored["classifier"]["batch_size"], stored["classifier"]["epochs"]) == (4, 4, 2)
    assert stored["tokenizer"]["codebook_size"] == 256 and stored["evaluation"]["samples_per_class"] == 250
    stored["post_training"]["epochs"] = 3.0
    file.write_text(yaml.safe_dump(stored))
    capsys.readouterr()
    main(argv)  # finished with two epochs: another number would be refused
    assert f"as this run began: {file}" in capsys.readouterr().out
    again = settings_of("images", *argv[:6], "--post_training.batch_size", "5")
    config, found = as_begun(again)
    assert found == file and config.classifier.epochs == 2.0 and config.post_training.epochs == 3.0
    assert config.post_training.batch_size == 5
    assert as_begun(replace(again, resume="never")) == (replace(again, resume="never"), None)


def test_only_what_means_so_is_left_open():
    """Every setting that may be open is one, may be None, and is no setting whose None has another meaning."""
    names = [name for name, *_ in walk(RunConfig)]
    assert set(OPEN) <= set(names) and len(set(OPEN)) == len(OPEN)
    nulled = yaml.safe_load(preset_path("images").read_text())
    found = {f"{section}.{name}" for section, s in nulled.items() if isinstance(s, dict) for name in s}
    assert found | {"flow_sampling.batch_size"} == set(OPEN)


def test_a_run_is_checked_whole(photos):
    config = settings_of("images", "--data.root", str(photos))
    images = open_images(config.data, 32)
    check_run(Outline(decided(config, images, 1, "cpu")[0], images, tuple(STAGES)), 1)
