"""How long a run will take: the arithmetic that is counted on models without values, and what follows from it."""

import pytest
import torch
from torch import nn

from robustok.config import DataConfig, RunConfig
from robustok.data.images import open_images
from robustok.job import duration
from robustok.job.outline import Outline
from robustok.model_configs import RARConfig, TokenizerConfig
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.training_configs import TrainingConfig

SHAPE = TokenizerConfig(image_size=16, patch_size=8, width=32, depth=1, heads=2, codebook_size=16, code_width=4)


@pytest.fixture
def run():
    training = TrainingConfig(epochs=2.0, batch_size=32, warmup_epochs=0.0)
    generator = RARConfig(width=32, depth=1, heads=2, mlp_width=64)
    config = RunConfig(tokenizer=SHAPE, generator=generator, tokenizer_training=training, generator_training=training)
    return Outline(config, open_images(DataConfig(), 16), ("tokenizer", "generator"))


def test_products_are_counted_as_by_hand(run):
    """Of every linear and convolutional layer, two FLOP a multiply-add; attention, which has none, comes on top."""
    counted = []

    def count(layer, _inputs, output):
        inputs = layer.weight[0].numel()  # that one number of the output is a sum of
        counted.append(2 * inputs * output.numel())

    model = ViTTokenizer(SHAPE)
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(count)
    model.decode(model.encode(torch.zeros(1, 3, 16, 16)))
    found = duration._of_tokenizer(run)
    assert sum(counted) <= found < 1.15 * sum(counted)


def test_time_grows_with_steps_and_shrinks_with_processes(run, monkeypatch):
    monkeypatch.setattr(duration, "_rate", lambda device: 1e9)
    device = torch.device("cpu")
    one, four = duration.seconds(run, device, 1), duration.seconds(run, device, 4)
    assert list(one) == ["tokenizer", "generator"]
    assert one["tokenizer"] == pytest.approx(4 * four["tokenizer"])
    images = 2 * (len(run.images.train) // 32) * 32
    parameters = sum(p.numel() for p in run.generator.parameters())
    assert one["generator"] == pytest.approx(3 * 2 * parameters * 4 * images / (duration.SHARE * 1e9))
