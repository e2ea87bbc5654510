"""A flow generator is trained by the loop that trains all generators, on latents instead of tokens."""

from dataclasses import replace

import pytest
import torch

from robustok import load_generator
from robustok.config import FamilyConfig, RunConfig, TrainingConfig
from robustok.core.errors import UserError
from robustok.data.latents import write_latents
from robustok.model_configs import MAETokConfig, SiTConfig, TokenizerConfig
from robustok.models.registry import FAMILIES
from robustok.models.starting import generator_to_train
from robustok.training.loop import fit
from robustok.training.run import Run
from robustok.training.stages.generator import GeneratorStage

TRAINING = TrainingConfig(epochs=50, batch_size=32, lr=2e-3, min_lr=2e-3, warmup_epochs=0.0, ema=0.9, save_every=40)
CONFIG = RunConfig(
    family=FamilyConfig(generator="sit"),
    sit=SiTConfig(width=32, depth=2, heads=2, class_dropout=0.0),
    generator_training=TRAINING,
    device="cpu",
)
CENTRES = torch.tensor([[30.0, -1.0], [10.0, 1.0], [20.0, 0.0]])  # of each class; the first channel is ten times larger


@pytest.fixture
def tokenizer():
    return FAMILIES["maetok"].build(
        MAETokConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, num_latents=4, latent_width=2)
    )


@pytest.fixture
def latents(tmp_path):
    labels, draw = torch.arange(96) % 3, torch.Generator().manual_seed(0)
    rows = CENTRES[labels][:, None] + 0.1 * torch.randn(96, 4, 2, generator=draw) * torch.tensor([10.0, 1.0])
    about = {"tokenizer": "t", "class_names": ["a", "b", "c"], "latent_shape": [4, 2]}
    return write_latents(tmp_path / "latents", rows, labels, torch.arange(96), about)


def train(config, tokenizer, latents, folder, epochs: float = TRAINING.epochs):
    config = replace(config, runs=str(folder), generator_training=replace(TRAINING, epochs=epochs))
    torch.manual_seed(0)
    model = generator_to_train(config, tokenizer, 3, latents.statistics())
    run = Run(config)
    try:
        return fit(GeneratorStage(run, model, latents), run)
    finally:
        run.close()


def test_it_learns_the_latents_on_the_tokenizers_scale(tokenizer, latents, tmp_path):
    model = load_generator(train(CONFIG, tokenizer, latents, tmp_path))
    assert model.config.latent_mean == tuple(latents.mean.tolist()) and model.config.num_latents == 4
    classes = torch.arange(3).repeat_interleave(20)
    made = model.generate(classes, seed=1, steps=20, solver="heun", guidance_scale=1.0)
    found = made.unflatten(0, (3, 20)).mean((1, 2))
    assert ((found - CENTRES).abs() < torch.tensor([3.0, 0.3])).all(), found


def test_a_resumed_training_is_an_uninterrupted_one(tokenizer, latents, tmp_path):
    """Interrupted after 40 of 60 steps, the bytes at the end are the same."""
    whole = train(CONFIG, tokenizer, latents, tmp_path / "whole", epochs=20)
    first = train(CONFIG, tokenizer, latents, tmp_path / "parts", epochs=20)
    stage = first.parent
    for path in sorted(first.iterdir()):
        path.unlink()
    first.rmdir()
    (stage / "stage.json").unlink()
    resumed = train(CONFIG, tokenizer, latents, tmp_path / "parts", epochs=20)
    assert resumed.name == whole.name == "step-60" and (stage / "step-40").is_dir()
    for name in ("model", "ema"):
        assert (resumed / f"{name}.safetensors").read_bytes() == (whole / f"{name}.safetensors").read_bytes()


def test_what_the_settings_and_the_data_decide(tokenizer, latents):
    given = replace(CONFIG, sit=replace(CONFIG.sit, num_latents=5))
    with pytest.raises(UserError, match=r"sit\.num_latents: found 5, but tokenizer and data have 4"):
        generator_to_train(given, tokenizer, 3, latents.statistics())
    shape = TokenizerConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, codebook_size=16, code_width=4)
    with pytest.raises(UserError, match="makes latents, but the tokenizer decodes tokens"):
        generator_to_train(CONFIG, FAMILIES["tokenizer"].build(shape), 3)
    with pytest.raises(UserError, match="a maetok makes latents without a codebook"):
        generator_to_train(replace(CONFIG, family=FamilyConfig()), tokenizer, 3)
