"""A main training of a tokenizer small enough to be taken step by step in a test."""

from dataclasses import replace

import pytest
import torch

from robustok.config import (
    CodebookConfig,
    DataConfig,
    DiscriminatorConfig,
    FrozenConfig,
    LossConfig,
    PerturbationConfig,
    RunConfig,
    TrainingConfig,
)
from robustok.data.images import open_images
from robustok.model_configs import TokenizerConfig
from robustok.models.frozen.classifier import Classifier
from robustok.models.frozen.networks import open_networks
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.training.run import Run
from robustok.training.stages.tokenizer import TokenizerStage

CONFIG = RunConfig(
    name="x",
    device="cpu",
    log_every=1,
    data=DataConfig(val=20, test=1700),  # leaves 77 digits to train on
    tokenizer=TokenizerConfig(
        image_size=16, patch_size=8, width=64, depth=1, heads=2, codebook_size=16, code_width=4, drop_path=0.0
    ),
    codebook=CodebookConfig(usage_window=64),
    perturbation=PerturbationConfig(delta=4, beta=0.5, anneal_start=40.0, anneal_end=120.0),
    losses=LossConfig(adversarial=0.0, adversarial_start=0.0),
    discriminator=DiscriminatorConfig(warmup_epochs=4.0),
    tokenizer_training=TrainingConfig(
        epochs=1, batch_size=8, lr=1e-3, warmup_epochs=0.0, ema=0.9, save_every=3, weight_decay=0.1
    ),
)


def make_stage(folder, **sections) -> TokenizerStage:
    """A TokenizerStage without an adversary, nine steps long, of the run `x` in this folder; it holds the run open."""
    config = replace(CONFIG, runs=str(folder), **sections)
    device = torch.device(config.device)
    torch.manual_seed(0)
    images = open_images(config.data, config.tokenizer.image_size)
    classifier = Classifier(images.num_classes, config.tokenizer.image_size)
    frozen = open_networks(FrozenConfig(), config.tokenizer, lambda: classifier, device)
    return TokenizerStage(Run(config), images, frozen, ViTTokenizer(config.tokenizer).to(device))


@pytest.fixture
def tokenizer_stage(tmp_path):
    """tokenizer_stage(**settings) -> that of `make_stage`, in a temporary folder."""
    opened = []

    def make(**sections) -> TokenizerStage:
        stage = make_stage(tmp_path, **sections)
        opened.append(stage.run)
        return stage

    yield make
    for run in opened:
        run.close()
