"""No step of training reads a value back: on a GPU each such read would wait for all that was asked of it before."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from robustok.config import (
    CodebookConfig,
    DiscriminatorConfig,
    FamilyConfig,
    LossConfig,
    OrderConfig,
    StoppingConfig,
    TrainingConfig,
    WarmupConfig,
)
from robustok.data.images import open_images
from robustok.data.latents import write_latents
from robustok.data.loader import load_batch
from robustok.data.row_datasets import PairDataset
from robustok.data.tokens import write_tokens
from robustok.model_configs import LlamaGenConfig, MAETokConfig, RARConfig, SiTConfig
from robustok.models.frozen.classifier import Classifier
from robustok.models.frozen.networks import FrozenNetworks, from_classifier
from robustok.models.generators.llamagen import LlamaGen
from robustok.models.generators.rar import RAR
from robustok.models.generators.sit import SiT
from robustok.models.tokenizers.maetok import MAETok
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.training.adversary import StoredAdversary
from robustok.training.loop import Fit
from robustok.training.run import Run
from robustok.training.stages.base import Stage
from robustok.training.stages.classifier import ClassifierStage
from robustok.training.stages.discriminator import DiscriminatorStage
from robustok.training.stages.generator import GeneratorStage
from robustok.training.stages.masked_tokenizer import MaskedTokenizerStage
from robustok.training.stages.post_training import PostTrainingStage
from tests.host_reads import reads_of

from .conftest import CONFIG

# What reads on the CPU alone, or what lies in the host's memory on every machine.
ON_THE_HOST = {
    ("training/optimizers.py", "step"),  # a fused optimiser, which a GPU has, is told on the device
    ("ops/indices.py", "_check_range"),  # asserts on a GPU
    ("data/tokens.py", "read"),  # tokens fresh from their file
    ("data/rows.py", "__getitem__"),  # positions in the data set, which stay with the host
}

TRAINING = TrainingConfig(epochs=1, batch_size=8, warmup_epochs=0.0, ema=0.9, clip_norm=1.0)
ALL_LOSSES = LossConfig(adversarial_start=0.0, lecam=1.0, blur_epochs=1.0)
SETTINGS = {
    "losses": ALL_LOSSES,
    "order": OrderConfig(anneal_start=0.0, anneal_end=1.0),
    "post_discriminator": DiscriminatorConfig(warmup_epochs=0.0),
    "discriminator_warmup": WarmupConfig(epochs=1, warmup_epochs=0.0),
    "stopping": StoppingConfig(every_epochs=1.0),
}
GENERATORS = {
    "rar": RAR(RARConfig(32, 1, 2, 64, codebook_size=16, num_classes=10, num_tokens=4)),
    "llamagen": LlamaGen(
        LlamaGenConfig(width=32, depth=1, heads=2, mlp_width=48, codebook_size=16, num_classes=10, num_tokens=4)
    ),
    "sit": SiT(SiTConfig(width=32, depth=1, heads=2, num_classes=10, num_latents=4, latent_width=2)),
}


class Making:
    """What stages are made of, in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.images = open_images(CONFIG.data, 16)

    def run(self, **sections) -> Run:
        self.opened = Run(replace(CONFIG, runs=str(self.folder), **SETTINGS, **sections))
        return self.opened

    def frozen(self) -> FrozenNetworks:
        return from_classifier(Classifier(self.images.num_classes, 16))

    def rows(self, latents: bool):
        train = self.images.train
        about = {"tokenizer": "t", "class_names": ["x"] * self.images.num_classes}
        write, kind, rows = write_tokens, {"codebook_size": 16}, torch.randint(16, (len(train), 4))
        if latents:
            write, kind, rows = write_latents, {"latent_shape": [4, 2]}, torch.randn(len(train), 4, 2)
        return write(self.folder / "rows", rows, train.labels, train.ids, about | kind)

    def classifier(self) -> Stage:
        return ClassifierStage(self.run(classifier=TRAINING), self.images)

    def masked(self) -> Stage:
        shape = MAETokConfig(image_size=16, patch_size=8, width=64, depth=1, heads=2, num_latents=4, latent_width=2)
        run = self.run(maetok=shape, family=FamilyConfig(tokenizer="maetok"))
        return MaskedTokenizerStage(run, self.images, self.frozen(), MAETok(shape))

    def generator(self, name: str) -> Stage:
        run = self.run(family=FamilyConfig(generator=name), generator_training=TRAINING)
        return GeneratorStage(run, GENERATORS[name], self.rows(latents=name == "sit"))

    def post(self) -> Stage:
        run, adversary = self.run(post_training=TRAINING), StoredAdversary({}, torch.zeros(2, dtype=torch.float64))
        models = self.frozen(), ViTTokenizer(CONFIG.tokenizer)
        return PostTrainingStage(run, "post", self.images, self.rows(False), *models, {}, adversary, lambda model: 0.0)

    def discriminator(self) -> Stage:
        run = self.run(post_training=TRAINING)
        return DiscriminatorStage(run, self.images, self.frozen(), ViTTokenizer(CONFIG.tokenizer))


STAGES = {name: getattr(Making, name) for name in ("classifier", "masked", "post", "discriminator")}
STAGES |= {name: partial(Making.generator, name=name) for name in GENERATORS}


def steps_of(stage: Stage, run: Run) -> set[tuple[str, str]]:
    """Which functions read in two steps of the loop; in the second one optimisers have a state."""
    fit = Fit(stage, run)
    batch = load_batch(stage.dataset, torch.arange(8), seed=0, epoch=0)

    def step() -> None:
        terms = fit._take_step(batch)
        fit.guard.watch(terms, fit.state.step, batch)
        fit.state.step += 1

    return set(reads_of(lambda: [step() for _ in range(2)]))


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_reads_nothing(stage, tmp_path):
    making = Making(tmp_path)
    made = STAGES[stage](making)
    try:
        found = steps_of(made, making.opened)
    finally:
        making.opened.close()
    assert found - ON_THE_HOST == set()
    assert ("training/optimizers.py", "step") in found  # reads are seen


# warm-up without quantisation, then quantised steps whose unused codes are set anew
CODEBOOKS = {"as it is": CodebookConfig(), "restarts": CodebookConfig(restart_dead_after=1)}
CODEBOOKS |= {"continuous": CodebookConfig(continuous_steps=9)}


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_a_tokenizers_step_reads_nothing(tokenizer_stage, codebook):
    """With its adversary, perturbation and every loss."""
    stage = tokenizer_stage(codebook=CODEBOOKS[codebook], losses=ALL_LOSSES)
    assert steps_of(stage, stage.run) - ON_THE_HOST == set()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_generated_rows_do_not_wait_for_a_gpu(tmp_path, monkeypatch, device):
    """A copy from memory that is not page-locked may wait for all that was asked of the GPU before."""
    making, done = Making(tmp_path), []
    pairs = PairDataset(making.images.train, making.rows(latents=True))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: done.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *to, **how: done.append((*to, how)) or self)
    pairs.generated(torch.tensor([3, 1]), torch.device(device))
    copied = (torch.device(device), {"non_blocking": True})
    assert done == (["pinned", copied] if device == "cuda" else [copied])
