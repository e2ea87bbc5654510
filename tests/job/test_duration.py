"""How long a run will take: the arithmetic that is counted on models without values, and what follows from it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from robustok.config import DataConfig, FamilyConfig, OrderConfig, PairsConfig, RunConfig
from robustok.data.images import open_images
from robustok.job import duration
from robustok.job.outline import Outline
from robustok.model_configs import LlamaGenConfig, MAETokConfig, RARConfig, SiTConfig, TokenizerConfig
from robustok.models.registry import family_of
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.training import utilisation
from robustok.training_configs import TrainingConfig

SHAPE = TokenizerConfig(image_size=16, patch_size=8, width=32, depth=1, heads=2, codebook_size=16, code_width=4)


@pytest.fixture
def run():
    training = TrainingConfig(epochs=2.0, batch_size=32, warmup_epochs=0.0)
    config = RunConfig(
        tokenizer=SHAPE,
        maetok=MAETokConfig(image_size=16, patch_size=8, width=32, depth=1, heads=2, num_latents=4, latent_width=2),
        generator=RARConfig(width=32, depth=1, heads=2, mlp_width=64),
        order=OrderConfig(anneal_start=1.0, anneal_end=2.0),
        llamagen=LlamaGenConfig(width=32, depth=1, heads=2, mlp_width=48),
        sit=SiTConfig(width=32, depth=1, heads=2),
        tokenizer_training=training,
        generator_training=training,
        post_training=training,
    )
    return Outline(config, open_images(DataConfig(), 16), ("tokenizer", "generator", "post"))


def products(model: nn.Module, forward: Callable[[], object]) -> int:
    """FLOP of every linear and convolutional layer while `forward` runs, two a multiply-add."""
    counted = []

    def count(layer, _inputs, output):
        inputs = layer.weight[0].numel()  # that one number of the output is a sum of
        counted.append(2 * inputs * output.numel())

    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(count)
    forward()
    return sum(counted)


def test_products_are_counted_as_by_hand(run):
    """Attention, which has no layer of its own, comes on top. Of post-training it is the decoder's alone."""
    model = ViTTokenizer(SHAPE)
    z = model.encode(torch.zeros(1, 3, 16, 16))
    decoded = products(model, lambda: model.decode(z))
    assert decoded <= duration._of_decoder(run) < 1.15 * decoded
    both = decoded + products(model := ViTTokenizer(SHAPE), lambda: model.encode(torch.zeros(1, 3, 16, 16)))
    assert both <= duration._of_tokenizer(run) < 1.15 * both


@pytest.mark.parametrize("family", ["rar", "llamagen", "sit"])
def test_tables_of_a_generator_multiply_nothing(run, family):
    """A class, a place and a code are looked up: there are no products of them, however many there are."""
    config = replace(run.config, family=FamilyConfig(tokenizer="maetok" if family == "sit" else "tokenizer"))
    config = replace(config, family=replace(config.family, generator=family))
    run = Outline(config, run.images, ("generator",))
    model = family_of(run.generator.config).build(run.generator.config)
    rows = torch.zeros(1, 4, 2) if family == "sit" else torch.zeros(1, 4, dtype=torch.int64)
    one = torch.zeros(1, dtype=torch.int64)
    counted = products(model, lambda: model.loss(rows, one, seed=0, sample_ids=one))
    assert counted <= duration._of_generator(run) < 1.25 * counted


def test_time_grows_with_steps_and_shrinks_with_processes(run, monkeypatch):
    monkeypatch.setattr(duration, "_rate", lambda device: 1e9)
    device = torch.device("cpu")
    one, four = duration.seconds(run, device, 1), duration.seconds(run, device, 4)
    assert list(one) == ["tokenizer", "generator", "post"]
    assert one["tokenizer"] == pytest.approx(4 * four["tokenizer"])
    images = 2 * (len(run.images.train) // 32) * 32
    flop = duration._of_generator(run)
    assert one["generator"] == pytest.approx(3 * flop * images / (duration.SHARE * 1e9))
    once = replace(run, config=replace(run.config, pairs=PairsConfig(modes=("direct",))))
    assert one["post"] == pytest.approx(2 * duration.seconds(once, device, 1)["post"])


def test_a_gpu_multiplies_matrices_that_keep_it_busy(monkeypatch):
    """Of 1024 rows a product takes a GPU as long as its launch does, and the rate would be far too low."""
    sides = []
    rate_of = lambda device, dtype, side, times: sides.append((dtype, side)) or 1e12  # noqa: E731
    for module in (duration, utilisation):
        monkeypatch.setattr(module, "product_rate", rate_of)
    for device in ("cpu", "cuda"):
        assert duration._rate(torch.device(device)) == 1e12
    assert sides == [(torch.float32, 1024), (torch.bfloat16, 4096)]
