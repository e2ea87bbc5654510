"""A step of training on a CPU beside the published computation as it is commonly written: a tokenizer's, and RAR's."""

from dataclasses import replace

import pytest
import torch

from robustok.config import (
    DiscriminatorConfig,
    FrozenConfig,
    LossConfig,
    OrderConfig,
    PerturbationConfig,
    RunConfig,
    TrainingConfig,
)
from robustok.core.random import AUGMENT, derive_seed, keyed_words, to_uniform
from robustok.data.images import open_images
from robustok.data.loader import Batch, load_batch
from robustok.data.tokens import write_tokens
from robustok.model_configs import RARConfig, TokenizerConfig
from robustok.models.discriminator import diff_augment
from robustok.models.frozen.classifier import Classifier
from robustok.models.frozen.dino import DINOBackbone, DINOTeacher
from robustok.models.frozen.lpips import LPIPS
from robustok.models.frozen.networks import FrozenNetworks, open_networks, placed
from robustok.models.generators.rar import RAR
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.models.vit import ViT
from robustok.training.loop import Fit
from robustok.training.run import Run
from robustok.training.stages.generator import GeneratorStage
from robustok.training.stages.tokenizer import TokenizerStage

from . import recording
from .training_peers import RARStep, TokenizerStep

TINY = TokenizerConfig(image_size=16, patch_size=8, width=64, depth=1, heads=2, codebook_size=32, code_width=4)
SMALL = TokenizerConfig(image_size=64, patch_size=8, width=192, depth=4, heads=3, codebook_size=1024, code_width=16)
WITHOUT_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "class_dropout": 0.0}
RAR_TINY = RARConfig(32, 2, 2, 64, codebook_size=32, num_classes=10, num_tokens=16, **WITHOUT_DROPOUT)
RAR_SMALL = RARConfig(256, 6, 4, 1024, codebook_size=1024, num_classes=1000, num_tokens=64, **WITHOUT_DROPOUT)
LOSSES = LossConfig(adversarial_start=0.0)
DISCRIMINATOR = DiscriminatorConfig(warmup_epochs=4.0)
FEW_CODES = PerturbationConfig(
    beta=0.5, delta=1, anneal_start=40.0, anneal_end=120.0
)  # the nearest alone: what is drawn at random has no effect


@pytest.fixture
def few_rounds(monkeypatch):
    """Calls that last seconds are repeated less."""
    monkeypatch.setattr(recording, "ROUNDS", {"cpu": 9, "cuda": 30})
    monkeypatch.setattr(recording, "WARM_UP_CALLS", 2)


@pytest.fixture
def open_run(tmp_path):
    """open_run(**settings) -> an open run on the CPU, or where the settings say."""
    opened = []

    def make(**settings) -> Run:
        opened.append(
            Run(
                RunConfig(
                    **{"name": "x", "runs": str(tmp_path), "device": "cpu", "discriminator": DISCRIMINATOR} | settings
                )
            )
        )
        return opened[-1]

    yield make
    for run in opened:
        run.close()


def training(batch: int) -> TrainingConfig:
    return TrainingConfig(
        epochs=200.0, batch_size=batch, warmup_epochs=0.0, ema=0.9999, weight_decay=0.05, clip_norm=1.0
    )


def frozen_of(run: Run, config: TokenizerConfig, *, published: bool) -> FrozenNetworks:
    """Networks with random weights: the classifier's views, or those of the published sizes."""
    torch.manual_seed(1)
    classifier = Classifier(10, config.image_size)
    device, settings = run.device, {"compile": run.config.compile, "bfloat16": run.bfloat16}
    networks = open_networks(FrozenConfig(), config, lambda: classifier, device, **settings)
    if not published:
        return networks
    shape = {"width": config.width, "depth": config.depth, "heads": config.heads}
    teacher = DINOTeacher(ViT(grid=config.image_size // config.patch_size, patch_size=config.patch_size, **shape))
    parts = teacher, LPIPS().eval().requires_grad_(False), DINOBackbone()
    return FrozenNetworks(*(placed(part, device, **settings) for part in parts))


def tokenizer_training(run: Run, config: TokenizerConfig, batch: int, *, published: bool = False) -> tuple[Fit, Batch]:
    """The training of a fresh tokenizer whose adversary is active, and a batch of digits for it."""
    images = open_images(run.config.data, config.image_size)
    frozen = frozen_of(run, config, published=published)
    torch.manual_seed(0)
    model = ViTTokenizer(config).to(run.device)
    fit = Fit(TokenizerStage(run, images, frozen, model), run)
    return fit, load_batch(fit.stage.dataset, torch.arange(batch), seed=0, epoch=0, augment=False)


def rar_training(run: Run, config: RARConfig, batch: int, folder) -> tuple[Fit, Batch]:
    """The training of a RAR generator with random weights, and a batch of random tokens for it."""
    torch.manual_seed(0)
    tokens = torch.randint(config.codebook_size, (batch, config.num_tokens))
    about = {"tokenizer": "t", "class_names": ["x"] * config.num_classes, "codebook_size": config.codebook_size}
    rows = write_tokens(folder, tokens, torch.arange(batch) % config.num_classes, torch.arange(batch), about)
    model = RAR(config)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.05)
    fit = Fit(GeneratorStage(run, model.to(run.device), rows), run)
    return fit, load_batch(fit.stage.dataset, torch.arange(batch), seed=0, epoch=0, augment=False)


def keyed_augment(batch: Batch, seed: int):
    """The augmentation of the discriminator's images in step 0 of a run with this seed, as the adversary draws it."""

    def augment(images: torch.Tensor, use: int) -> torch.Tensor:
        pair = torch.arange(2)[:, None]
        words = torch.cat(keyed_words(derive_seed(seed, "diff_augment"), AUGMENT, batch.ids, use, pair))
        return diff_augment(images, to_uniform(words[:7]))

    return augment


def test_tokenizer_step_on_cpu(timed, record, few_rounds, open_run):
    """The same losses of the same weights; then a step is timed, whose perturbation draws from 100 codes."""
    run = open_run(losses=LOSSES, perturbation=FEW_CODES, tokenizer_training=training(8))
    fit, batch = tokenizer_training(run, TINY, 8)
    plain = TokenizerStep(fit.stage, FEW_CODES, LOSSES, keyed_augment(batch, run.config.seed))
    found, expected = fit._take_step(batch), plain(batch.inputs)
    weights = {"adversarial": LOSSES.adversarial * found["adaptive_weight"].item(), "discriminator": 1.0}
    for name, value in expected.items():
        weight = weights.get(name, getattr(LOSSES, name, 1.0))
        assert weight * found[name].item() == pytest.approx(value, rel=2e-3, abs=1e-6), name
    if not timed:
        return
    run.close()
    perturbation = replace(FEW_CODES, beta=0.1, delta=100)
    run = open_run(name="timed", losses=LOSSES, perturbation=perturbation, tokenizer_training=training(16))
    fit, batch = tokenizer_training(run, SMALL, 16)
    plain = TokenizerStep(fit.stage, perturbation, LOSSES, lambda images, use: diff_augment(images))
    timings = recording.measure({"plain": lambda: plain(batch.inputs), "ours": lambda: fit._take_step(batch)})
    what = f"ViT 192 x 4, 64 px, 1024 codes, all losses, batch 16, {torch.get_num_threads()} threads, against plain"
    record.add_ratio("training step of a tokenizer", what, 1.0, timings, "plain", "ours")


def test_rar_step_on_cpu(timed, record, few_rounds, open_run, tmp_path):
    """The same loss of the same weights in raster order; then a step in random orders is timed."""
    never = OrderConfig(anneal_start=0.0, anneal_end=0.0)
    run = open_run(order=never, generator_training=training(16))
    fit, batch = rar_training(run, RAR_TINY, 16, tmp_path / "tokens")
    plain = RARStep(fit.stage, share=0.0)
    found, expected = fit._take_step(batch), plain(batch.inputs, batch.labels)
    assert found["loss"].item() == pytest.approx(expected["loss"], rel=1e-5)
    assert found["generator_grad_norm"].item() == pytest.approx(expected["norm"], rel=1e-4)
    if not timed:
        return
    run.close()
    always = OrderConfig(anneal_start=200.0, anneal_end=200.0)
    run = open_run(name="timed", order=always, generator_training=training(16))
    fit, batch = rar_training(run, RAR_SMALL, 16, tmp_path / "more")
    plain = RARStep(fit.stage, share=1.0)
    ours = {"ours": lambda: fit._take_step(batch)}
    timings = recording.measure({"plain": lambda: plain(batch.inputs, batch.labels)} | ours)
    what = f"RAR 256 x 6, 64 tokens, batch 16, {torch.get_num_threads()} threads, against plain"
    record.add_ratio("training step of RAR", what, 1.0, timings, "plain", "ours")
