"""Validation while training: figures that an evaluation would give, no change of a bit, the best step kept by them."""

import json
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from robustok import load_generator, load_tokenizer
from robustok.config import FamilyConfig, RunConfig, TrainingConfig, ValidationConfig
from robustok.core.errors import UserError
from robustok.core.random import derive_seed
from robustok.data.images import open_images
from robustok.data.transforms import from_uint8, to_uint8
from robustok.evaluation import psnr
from robustok.evaluation.features.classifier import open_classifier
from robustok.evaluation.features.random_filters import RandomFilters
from robustok.evaluation.metrics.frechet import frechet_distance
from robustok.evaluation.passes import moments_of
from robustok.evaluation.pfid import quick_settings
from robustok.generation.batches import generate_batches
from robustok.job.outline import Outline
from robustok.job.validation import check_validation
from robustok.training.run import read_log

FEW = {"data.val": 60, "data.test": 1353, "log_every": 1}  # 384 images to train on: 3 steps an epoch
WATCHED = {"validation.every_epochs": 1, "tokenizer_training.epochs": 2}
LATENTS = {
    **{"family.tokenizer": "maetok", "family.generator": "sit", "maetok.image_size": 32, "maetok.patch_size": 8},
    **{"maetok.width": 64, "maetok.depth": 1, "maetok.heads": 2, "maetok.num_latents": 8, "maetok.latent_width": 4},
    **{"maetok.auxiliary_width": 16, "maetok.auxiliary_depth": 1, "maetok.auxiliary_heads": 2},
    **{"sit.width": 32, "sit.depth": 1, "sit.heads": 2},
}


def validations(run, stage: str) -> dict[int, dict[str, float]]:
    """Step -> figures by name."""
    found = {}
    for line in read_log(run / "log.jsonl"):
        named = {name.removeprefix("validation_"): x for name, x in line.items() if name.startswith("validation_")}
        if line["stage"] == stage and named:
            assert line["step"] not in found
            found[line["step"]] = named
    return found


def assert_same_bits(a, b):
    files = sorted(path.name for path in a.glob("*.safetensors"))
    assert files == sorted(path.name for path in b.glob("*.safetensors")) and "ema.safetensors" in files
    for name in files:
        one, other = load_file(a / name), load_file(b / name)
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_figures_of_a_tokenizer_are_those_of_its_weights_and_change_none(job):
    plain = job("tokenizer", **FEW, **{"tokenizer_training.epochs": 2})
    copytree(plain / "classifier", plain.parent / "y" / "classifier")
    run = job("tokenizer", name="y", **FEW, **WATCHED, **{"tokenizer_training.keep_best_by": "psnr"})
    assert_same_bits(plain / "tokenizer" / "step-6", run / "tokenizer" / "step-6")
    found = validations(run, "tokenizer")
    assert list(found) == [0, 3, 6] and all(set(figures) == {"psnr", "rfd", "pfd"} for figures in found.values())
    best = max(found, key=lambda step: found[step]["psnr"])
    assert json.loads((run / "tokenizer" / "stage.json").read_text())["best"] == f"step-{best}"

    tokenizer, config = load_tokenizer(run / "tokenizer" / f"step-{best}", "ema"), RunConfig().data
    images = open_images(replace(config, val=60, test=1353), 32).val.load(torch.arange(60))
    restored = to_uint8(tokenizer.reconstruct(from_uint8(images)))
    assert found[best]["psnr"] == pytest.approx(psnr(restored, images).mean().item(), rel=1e-5)
    features = open_classifier(run / "classifier", torch.device("cpu"))
    reference = moments_of(features, [images])
    assert found[best]["rfd"] == pytest.approx(frechet_distance(moments_of(features, [restored]), reference), rel=1e-3)
    ids, distances = torch.arange(60), []
    for alpha, delta in quick_settings(256):
        wrong = to_uint8(tokenizer.reconstruct(from_uint8(images), alpha, delta, seed=0, sample_ids=ids))
        distances.append(frechet_distance(moments_of(features, [wrong]), reference))
    assert found[best]["pfd"] == pytest.approx(sum(distances) / 3, rel=1e-3)


def test_a_generator_is_validated_though_its_tokenizer_was_not(job, tokenizer_run):
    copytree(tokenizer_run, tokenizer_run.parent / "y")
    plain = job("generator")
    watching = {"validation.every_epochs": 0.25, "generator_training.keep_best_by": "loss"}
    run = job("generator", name="y", **watching)
    assert_same_bits(plain / "generator" / "step-7", run / "generator" / "step-7")
    found = validations(run, "generator")
    assert list(found) == [0, 3, 6, 7]
    best = min(found, key=lambda step: found[step]["loss"])
    assert json.loads((run / "generator" / "stage.json").read_text())["best"] == f"step-{best}"
    generator, tokenizer = load_generator(run / "generator"), load_tokenizer(run / "tokenizer")
    images = open_images(replace(RunConfig().data, val=100, test=150), 32).val
    tokens = tokenizer.tokenize(from_uint8(images.load(torch.arange(100))))
    draws = {"seed": derive_seed(0, "validation"), "sample_ids": images.ids, "random_order_share": 1.0}
    loss, _ = generator.loss(tokens, images.labels, **draws)
    assert found[best]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    with pytest.raises(UserError, match=r"validation\.every_epochs: stored 0\.25, now 0\.5"):  # it chose the result
        job("generator", name="y", **watching | {"validation.every_epochs": 0.5})


def test_continuous_tokenizers_and_flows(job):
    run = job("tokenizer", **FEW, **WATCHED, **LATENTS, **{"tokenizer_training.keep_best_by": "nfd"})
    assert all(set(figures) == {"psnr", "rfd", "nfd"} for figures in validations(run, "tokenizer").values())
    job("generator", **FEW, **WATCHED, **LATENTS, **{"tokenizer_training.keep_best_by": "nfd"})
    assert validations(run, "generator").keys() >= {0, 2}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"tokenizer_training": "loss"},
            r"tokenizer_training\.keep_best_by: found loss, expected rfd, psnr, pfd or",
        ),
        ({"generator_training": "rfd"}, r"generator_training\.keep_best_by: found rfd, expected loss or null"),
        ({"post_training": "psnr"}, r"post_training\.keep_best_by: found psnr, expected null"),
        ({"tokenizer_training": "pfd", "family": "maetok"}, r"found pfd, expected rfd, psnr, nfd or null"),
        ({"tokenizer_training": "rfd", "validation": None}, r"expected null without validation\.every_epochs"),
    ],
)
def test_figures_that_a_stage_does_not_have_are_refused(sections, message):
    validation = ValidationConfig(every_epochs=sections.get("validation", 1.0))
    family = FamilyConfig(tokenizer=sections.get("family"))
    chosen = {name: TrainingConfig(keep_best_by=by) for name, by in sections.items() if name.endswith("_training")}
    with pytest.raises(UserError, match=message):
        check_validation(Outline(RunConfig(validation=validation, family=family, **chosen), None, ()))
    with pytest.raises(UserError, match=r"validation\.inception: found nowhere\.pth, expected a path that is a file"):
        check_validation(Outline(RunConfig(validation=ValidationConfig(inception="nowhere.pth")), None, ()))


def test_post_training_is_stopped_by_both_feature_spaces(job, tokenizer_run):
    """Distances are those of the samples through the step's weights; each is taken over what it was at the start."""
    for stage in ("generator", "pairs", "post"):
        run = job(stage, stopping__patience=9, pairs__modes="[direct]")
    found = validations(run, "post")
    assert all(set(figures) == {"gfd", "gfd_filters", "score"} for figures in found.values())
    start, last = found[0], found[max(found)]
    assert start["score"] == 1.0
    assert last["score"] == pytest.approx(np.mean([last[name] / start[name] for name in ("gfd", "gfd_filters")]))
    best = min(found, key=lambda step: found[step]["score"])
    assert json.loads((run / "post" / "stage.json").read_text())["best"] == f"step-{best}"

    images = open_images(replace(RunConfig().data, val=100, test=150), 32).val.load(torch.arange(100))
    generator, classes = load_generator(run / "generator"), torch.arange(10).repeat_interleave(5)
    sampling = yaml.safe_load((run / "config.yaml").read_text())["sampling"]
    del sampling["batch_size"]
    seed = derive_seed(0, "sample", "stop")
    tokens = torch.cat([*generate_batches(generator.sampler(**sampling), classes, seed=seed, batch_size=50)])
    networks = {"gfd": open_classifier(run / "classifier", torch.device("cpu")), "gfd_filters": RandomFilters()}
    for step, folder in ((0, run / "tokenizer"), (max(found), run / "post" / f"step-{max(found)}")):
        tokenizer = load_tokenizer(folder)
        decoded = to_uint8(tokenizer.decode(tokenizer.lookup(tokens)))
        for name, network in networks.items():
            sides = (moments_of(network, [batch]) for batch in (decoded, images))
            assert found[step][name] == pytest.approx(frechet_distance(*sides), rel=1e-3), (step, name)
