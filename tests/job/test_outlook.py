"""What a run says before it begins: steps and parameters, what it is too short for, and limits of its data."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from robustok.core.errors import UserError
from robustok.data.images import open_images
from robustok.job.command_line import parse_run_config, run_config_parser
from robustok.job.limits import check_limits
from robustok.job.outline import Outline
from robustok.job.outlook import described_stages, never
from robustok.job.registry import STAGES
from robustok.models.load import meta_model
from robustok.presets import preset_path


def settings_of(preset: str):
    return parse_run_config(run_config_parser("test", str(preset_path(preset))), [])[0]


@pytest.fixture(scope="module")
def digits():
    """(settings of the digits demo, its images: 1297 of 10 classes to train on)."""
    config = settings_of("digits")
    return config, open_images(config.data, 32)


def changed(config, **settings):
    """The settings with `section__name` replaced."""
    for name, value in settings.items():
        section, _, name = name.partition("__")
        config = replace(config, **{section: replace(getattr(config, section), **{name: value})})
    return config


@pytest.mark.parametrize(("preset", "count"), [("digits", 1297), ("digits-flow", 1297), ("robustok-b", 1_269_167)])
def test_nothing_is_too_short_in_presets_of_whole_runs(preset, count):
    classes = 10 if count == 1297 else 1000
    images = SimpleNamespace(train=range(count), num_classes=classes)
    stages = ("tokenizer",) if preset == "robustok-b" else tuple(STAGES)
    assert never(Outline(settings_of(preset), images, stages)) == []


def test_steps_and_parameters_by_hand(digits):
    config, images = digits
    lines = described_stages(Outline(config, images, tuple(STAGES)))
    assert [line.split(":")[0].strip() for line in lines] == ["classifier", "tokenizer", "generator", "post"]
    assert "30 epochs of 20 steps, 600 in all, each of 64 images" in lines[1]  # 1297 // 64 = 20
    parameters = sum(p.numel() for p in meta_model(config.tokenizer).parameters())
    assert f"tokenizer of {parameters / 1e6:.1f} million parameters" in lines[1]
    assert lines[3].endswith("once for each of reencode, direct")
    (line,) = described_stages(Outline(changed(config, data__token_views="tencrop"), images, ("generator",)))
    assert "40 epochs of 202 steps, 8080 in all" in line  # 12970 // 64 = 202
    (line,) = described_stages(Outline(changed(config, pairs__per_image=3), images, ("post",)))
    assert "5 epochs of 60 steps, 300 in all" in line  # 3891 // 64 = 60


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokenizer_training__epochs": 24}, ["losses.adversarial_start = 24, .* ends at 24: .* never starts"]),
        ({"losses__adversarial_start": 40}, ["losses.adversarial_start = 40, .* ends at 30: .* never starts"]),
        ({"losses__adversarial_start": 40, "losses__adversarial": 0.0}, []),
        ({"losses__adversarial_start": 29}, ["discriminator's warm-up ends at 31 epochs"]),
        ({"losses__blur_epochs": 7}, ["losses.blur_epochs = 7, .* never ends"]),
        ({"perturbation__anneal_start": 30, "perturbation__anneal_end": 40}, ["anneal_start = 30, .* never annealed"]),
        ({"perturbation__anneal_end": 31}, ["anneal_end = 31, .* never comes to its end_ratio 0.5"]),
        ({"perturbation__anneal_end": 31, "perturbation__beta": 0.0}, []),
        ({"perturbation__delta": 3}, ["perturbation.delta = 3 is annealed to 1 by .* no latent is perturbed"]),
        ({"perturbation__delta": 4}, []),
        ({"perturbation__beta": 0.015}, ["beta = 0.015 of a batch of 64 images is less than one .* >= 67 or a larger"]),
        ({"perturbation__beta": 0.015, "perturbation__alpha": 0.0}, []),
        ({"perturbation__anneal_end": 31, "perturbation__anneal_end_ratio": 1.0}, []),
        ({"codebook__continuous_steps": 600}, ["continuous_steps = 600, .* 600 steps: .* never set"]),
        ({"codebook__continuous_steps": 599}, []),
        ({"tokenizer_training__ema": 0.9999}, ["tokenizer_training.ema = 0.9999 over 600 steps: 94%"]),
        ({"tokenizer_training__warmup_epochs": 30}, ["tokenizer_training.warmup_epochs = 30, .* never reaches"]),
        ({"generator_training__epochs": 25}, ["order.anneal_end = 30, .* ends at 25: some orders are random"]),
        (
            {"generator_training__epochs": 20, "generator_training__ema": 0.9},
            ["order.anneal_start = 20, .* every order stays random"],
        ),
        ({"generator__class_dropout": 0.0}, ["sampling.guidance_scale = 2, but generator.class_dropout is 0"]),
        ({"generator__class_dropout": 0.0, "sampling__guidance_scale": 1.0}, []),
        ({"family__generator": "llamagen", "order__anneal_end": 99}, []),
        ({"stopping__every_epochs": 5}, ["stopping.every_epochs = 5, .* nothing can stop it early"]),
        ({"post_training__warmup_epochs": 5}, ["post_training.warmup_epochs = 5"]),
        ({"classifier__ema": 0.999}, ["classifier.ema = 0.999 over 240 steps: 79%"]),
    ],
)
def test_what_a_run_is_too_short_for(digits, settings, said):
    config, images = digits
    found = never(Outline(changed(config, **settings), images, tuple(STAGES)))
    assert len(found) == len(said), found
    for sentence, pattern in zip(found, said, strict=True):
        assert re.search(pattern, sentence)


def test_a_stage_that_is_not_run_is_not_spoken_of(digits):
    config, images = digits
    config = changed(config, tokenizer_training__epochs=1, stopping__every_epochs=9)
    assert len(never(Outline(config, images, ("tokenizer",)))) > 1
    assert len(never(Outline(config, images, ("post",)))) == 1
    assert never(Outline(config, images, ("tokens", "evaluate"))) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer__codebook_size": 20753}, r"codebook_size: found 20753, expected at most 20752, .* of 1297"),
        ({"tokenizer__codebook_size": 70000, "codebook__continuous_steps": 0}, "70000 codes, .* at most 65536"),
        ({"tokenizer__codebooks": 2}, "continuous_steps: found 100, expected 0 for a tokenizer of 2 codebooks"),
        ({"tokenizer__width": 60, "tokenizer__heads": 2}, "tokenizer.width: found 60, expected at least 64"),
        ({"generator__num_classes": 9}, "generator.num_classes: found 9 classes, expected null, or the 10"),
    ],
)
def test_limits_of_the_data(digits, settings, message):
    config, images = digits
    with pytest.raises(UserError, match=message):
        check_limits(Outline(changed(config, **settings), images, tuple(STAGES)))


@pytest.mark.parametrize(
    ("settings", "stages"),
    [
        ({}, tuple(STAGES)),
        ({"tokenizer__codebook_size": 20752}, tuple(STAGES)),  # 1297 images of 16 latents
        ({"tokenizer__codebook_size": 70000, "codebook__continuous_steps": 0}, ("tokenizer",)),
        ({"tokenizer__width": 64}, tuple(STAGES)),
        ({"generator__num_classes": 10}, tuple(STAGES)),
    ],
)
def test_what_just_fits(digits, settings, stages):
    config, images = digits
    check_limits(Outline(changed(config, **settings), images, stages))


def test_one_generated_image_is_no_distribution(digits):
    config, images = digits
    one = SimpleNamespace(train=images.train, num_classes=1)
    with pytest.raises(UserError, match="samples_per_class: found 1 of one class"):
        check_limits(Outline(changed(config, evaluation__samples_per_class=1), one, ("evaluate",)))
