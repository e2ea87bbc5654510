"""Pairs and post-training of any tokenizer with any generator of its kind, each from a stored model."""

from argparse import Namespace
from dataclasses import asdict
from functools import partial
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import torch
import yaml

from robustok import load_tokenizer
from robustok.checkpoints import reading
from robustok.checkpoints.checkpoint import read_checkpoint
from robustok.checkpoints.writing import save
from robustok.convert import main as convert
from robustok.core.errors import UserError
from robustok.data.latents import open_rows
from robustok.data.rows import tokenizer_hash
from robustok.formats.layout import HubFolder
from robustok.formats.opening import open_published, published_file
from robustok.model_configs import (
    ConvTokenizerConfig,
    ConvVAEConfig,
    LlamaGenConfig,
    MAETokConfig,
    RARConfig,
    SiTConfig,
    TokenizerConfig,
)
from robustok.models.load import take_statistics
from robustok.models.registry import family_of
from robustok.models.starting import open_generator
from robustok.train import main
from robustok.training.run import read_log

SETTINGS = {
    **{"device": "cpu", "log_every": 1, "data.val": 100, "data.test": 1440, "evaluation.samples_per_class": 2},
    **{"classifier.epochs": 1, "classifier.batch_size": 64, "losses.perceptual": 0.1},
    **{"pairs.sigma": 0.6, "sampling.batch_size": 64, "flow_sampling.batch_size": 64, "flow_sampling.steps": 2},
    **{"post_training.epochs": 1, "post_training.batch_size": 64, "post_training.lr": 0.005},
    **{"post_training.warmup_epochs": 0, "stopping.every_epochs": 1},
}
VIT = TokenizerConfig(
    image_size=16, patch_size=4, width=32, depth=1, heads=2, layer_scale=None, codebook_size=32, code_width=4
)
CONV = ConvTokenizerConfig(
    **{"image_size": 16, "widths": (32, 32, 32), "stem_width": 32, "attention": (2,), "blocks": 1, "decoder_blocks": 1},
    **{"feature_width": 32, "codebook_size": 32, "code_width": 4, "similarity": "cosine"},
)
MAETOK = MAETokConfig(
    image_size=16, patch_size=4, width=32, depth=1, heads=2, layer_scale=None, num_latents=8, latent_width=4
)
VAE = ConvVAEConfig(image_size=16, widths=(32, 32, 32), blocks=1, scaling_factor=0.5)
TOKENS = {"codebook_size": 32, "num_classes": 10, "num_tokens": 16}
RAR = RARConfig(width=16, depth=1, heads=2, mlp_width=16, **TOKENS)
LLAMAGEN = LlamaGenConfig(width=16, depth=1, heads=2, mlp_width=16, **TOKENS)
WIDE = LlamaGenConfig(width=768, depth=1, heads=12, mlp_width=16, **TOKENS)  # heads follow from a published width
SIT = SiTConfig(width=16, depth=1, heads=2, num_classes=10, num_latents=8, latent_width=4)
GRID = SiTConfig(width=16, depth=1, heads=2, num_classes=10, num_latents=16, latent_width=4, grid=True, patch_size=2)


def store(folder: Path, config, spread: float | None = None) -> Path:
    """A model with random weights; spread: of all of them, else as they begin training."""
    torch.manual_seed(0)
    family = family_of(config)
    model, folder = family.build(config), folder / family.kind
    if spread is not None:
        for parameter in model.parameters():
            parameter.data.normal_(0, spread)
    state = model.state_dict()
    save(folder, {"model": state, "ema": state}, {"config": {"kind": family.kind, "config": asdict(config)}})
    return folder


def publish(folder: Path, config) -> Path:
    """A tokenizer in the published layout of its family, with settings of theirs that our config has no field for."""
    stored = read_checkpoint(store(folder, config), family_of(config).kind, config)
    layout = next(layout for layout in family_of(config).layouts if layout.holds(config))
    content = layout.write(stored)
    if isinstance(content, HubFolder):
        content.settings.get("config", content.settings)["author"] = "somebody"
        content.save(folder / "published")
    else:
        content["args"] = Namespace(image_size=config.image_size, codebook_l2_norm=True, lr=1e-4)
        torch.save(content, folder / "published")
    return folder / "published"


def pair(folder: Path, tokenizer, generator) -> dict:
    """The settings of a run that starts from both, stored."""
    return {"start.tokenizer": store(folder, tokenizer), "start.generator": store(folder, generator, 0.2)}


def run_job(runs: Path, stage: str, name: str = "x", **settings) -> Path:
    options = {**SETTINGS, "runs": runs, "name": name, "stage": stage, **settings}
    main([part for key, value in options.items() for part in (f"--{key}", str(value))])
    return runs / name


@pytest.fixture(scope="module")
def classified(tmp_path_factory) -> Path:
    """A run whose classifier is trained."""
    shape = {"tokenizer.image_size": 16, "tokenizer.patch_size": 4}
    return run_job(tmp_path_factory.mktemp("runs"), "classifier", **shape)


@pytest.fixture
def job(classified, tmp_path):
    """job(stage, **settings) runs a stage and returns the run's folder."""
    copytree(classified, tmp_path / "runs" / "x")
    return partial(run_job, tmp_path / "runs")


@pytest.mark.parametrize(("tokenizer", "generator"), [(VIT, RAR), (CONV, LLAMAGEN), (MAETOK, SIT), (VAE, GRID)])
def test_every_combination(job, tmp_path, tokenizer, generator):
    """Nothing is said of the models but where they are: family and image size follow, and how they are sampled."""
    settings = pair(tmp_path, tokenizer, generator) | {"pairs.modes": "[reencode]", "losses.adversarial": 0}
    if tokenizer is not VIT:
        settings |= {"start.tokenizer": publish(tmp_path, tokenizer), "start.num_heads": 2}
    run = job("pairs", **settings)
    pairs, kind = open_rows(run / "pairs" / "reencode"), family_of(tokenizer).kind
    model = load_tokenizer(settings["start.tokenizer"], num_heads=2)
    shape = (model.num_tokens,) if kind in ("tokenizer", "conv_tokenizer") else model.latent_shape
    assert pairs.rows.shape == (257, *shape)
    job("post", **settings)
    after, log = load_tokenizer(run / "post/step-4"), read_log(run / "log.jsonl")
    assert after.config == model.config and after.image_size == 16
    assert tokenizer_hash(after) == tokenizer_hash(model)  # the codebook's gradient would reach it
    assert {line["stage"] for line in log} == {"classifier", "post"}
    assert yaml.safe_load((run / "config.yaml").read_text())["family"]["tokenizer"] == kind
    if tokenizer is not VIT:
        back = goes_back(run / "post/step-4", tmp_path)
        assert back.config == model.config
        images = torch.rand(2, 3, 16, 16) * 2 - 1
        assert torch.equal(back.encode(images), model.encode(images))
        z = torch.randn(2, *model.latent_shape)
        assert torch.equal(back.decode(z), after.decode(z)) and not torch.equal(back.decode(z), model.decode(z))


@torch.no_grad()
def goes_back(checkpoint: Path, folder: Path):
    """The post-trained tokenizer, converted to the published layout that it came from, and loaded."""
    convert([str(checkpoint), str(folder / "back"), "--to", "upstream"])
    both = folder / "published", folder / "back"
    before, after = (open_published(published_file(path) if path.is_dir() else path) for path in both)
    assert after.settings == before.settings
    assert before.content.keys() <= after.content.keys() and before.state.keys() == after.state.keys()
    return load_tokenizer(folder / "back", num_heads=2)


def test_a_new_discriminator_is_warmed_up_and_resumes_to_the_bit(job, tmp_path):
    """It is logged under its own name, learns, and is what post-training goes on from."""
    start = pair(tmp_path, MAETOK, SIT) | {"pairs.modes": "[direct]", "post_training.save_every": 2}
    start |= {"discriminator_warmup.lr": 0.002}  # at a lower rate one batch differs from another by what is learned
    job("pairs", **start)
    run = job("post", **start)
    log = [line for line in read_log(run / "log.jsonl") if line["stage"] == "discriminator"]
    assert_only_the_decoder_learned(start["start.tokenizer"], run)
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
    with pytest.raises(UserError, match=r"discriminator_warmup\.lr: stored 0\.002, now 0\.1"):
        job("post", **start | {"discriminator_warmup.lr": 0.1})


def assert_only_the_decoder_learned(start: Path, run: Path) -> None:
    log = [line["reconstruction"] for line in read_log(run / "log.jsonl") if line["stage"] == "post" and "psnr" in line]
    assert log[-1] < 0.7 * log[0]
    before, after = (load_tokenizer(path, "model") for path in (start, run / "post/step-4"))
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(old, new) or name.startswith("decoder."), name


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """All that the last checkpoints of both stages hold."""
    files = [file for stage in ("discriminator", "post") for file in (run / stage / "step-4").glob("*.safetensors")]
    return {
        f"{file.parent.parent.name}/{file.stem}/{name}": tensor
        for file in files
        for name, tensor in reading.load(file.parent, file.stem)[0].items()
    }


@pytest.mark.parametrize(
    ("tokenizer", "generator", "settings", "message"),
    [
        (MAETOK, RAR, {}, r"the generator makes tokens, but the tokenizer \(maetok\) has no codebook"),
        (VIT, SIT, {}, r"the generator \(sit\) makes latents, but the tokenizer decodes tokens"),
        (MAETOK, GRID, {}, "the generator makes 16 x 4 latents, the tokenizer has 8 x 4"),
        (VIT, RAR, {"pairs.sigma": 1.5}, r"pairs\.sigma: found 1\.5, expected a number in \[0, 1\]"),
        (MAETOK, SIT, {"family.tokenizer": "tokenizer"}, "holds a maetok; expected a tokenizer"),
        (MAETOK, SIT, {"family.generator": "rar"}, "holds a sit; expected a rar"),
        (CONV, LLAMAGEN, {"stage": "all"}, "is a conv_tokenizer, which no run trains: leave out the stage tokenizer"),
    ],
)
def test_a_pair_that_cannot_work_is_refused_before_any_work(tmp_path, tokenizer, generator, settings, message):
    settings = {"stage": "post", **pair(tmp_path, tokenizer, generator), **settings}
    with pytest.raises(UserError, match=message):
        run_job(tmp_path / "runs", **settings)
    assert not (tmp_path / "runs").exists()


def test_a_published_generator_takes_the_statistics_of_its_tokenizer(tmp_path):
    """LlamaGen's files do not say how many tokens an image has either: the tokenizer does."""
    vae, flow = (family_of(config).build(config).eval() for config in (VAE, GRID))
    take_statistics(flow, vae)
    z = torch.randn(2, 16, 4)
    torch.testing.assert_close(flow.normalized(z), z * 0.5)  # diffusers' scaling factor
    model = family_of(WIDE).build(WIDE)
    torch.save({"model": model.state_dict()}, tmp_path / "gpt.pt")
    assert open_generator(tmp_path / "gpt.pt", family_of(CONV).build(CONV)).config.num_tokens == 16
