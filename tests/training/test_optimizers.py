"""Which parameters decay, and an optimiser's state under the names of the network's own parameters."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from robustok.config import RunConfig, TrainingConfig
from robustok.model_configs import RARConfig, TokenizerConfig
from robustok.models.generators.rar import RAR
from robustok.models.parameters import decayed_parameters
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.training.optimizers import TrainedModule, load_optimizer_state, optimizer_state
from robustok.training.parallel import LossModule
from robustok.training.run import Run
from robustok.training.stages.post_training import DecoderOfRows

DECAY = TrainingConfig(lr=0.1, weight_decay=0.5)


@pytest.fixture
def run(tmp_path):
    opened = Run(RunConfig(runs=str(tmp_path), device="cpu"))
    yield opened
    opened.close()


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    return ViTTokenizer(TokenizerConfig(width=32, depth=1, heads=2, codebook_size=16, code_width=4))


def step_without_gradients(trained):
    """An optimiser step in which weight decay alone moves the parameters."""
    for parameter in trained.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    trained.step(0)


def test_weight_decay_of_post_training_shrinks_the_matrices(run, tokenizer):
    tokenizer.freeze_encoder()
    before = {name: p.detach().clone() for name, p in tokenizer.named_parameters()}
    step_without_gradients(
        TrainedModule.with_adamw("tokenizer", tokenizer, DECAY, lambda step: 0.1, run, module=DecoderOfRows(tokenizer))
    )
    for name in ("decoder.to_pixel.weight", "post_quant_conv.weight", "decoder.vit.blocks.0.mlp.fc1.weight"):
        assert torch.equal(tokenizer.get_parameter(name), before[name] * (1 - 0.1 * 0.5)), name
    tables = ("decoder.mask_token", "decoder.level", "decoder.vit.pos_embed", "decoder.vit.cls_token")
    for name in (*tables, "decoder.to_pixel.bias", "quant_conv.weight", "quantizer.codebook"):
        assert torch.equal(tokenizer.get_parameter(name), before[name]), name


def test_weight_decay_of_main_training_reaches_the_patch_embedding(run, tokenizer):
    before = tokenizer.encoder.vit.patch_embed.proj.weight.detach().clone()
    codes = tokenizer.codebook.detach().clone()
    step_without_gradients(TrainedModule.with_adamw("tokenizer", tokenizer, DECAY, lambda step: 0.1, run))
    assert torch.equal(tokenizer.encoder.vit.patch_embed.proj.weight, before * (1 - 0.1 * 0.5))
    assert torch.equal(tokenizer.codebook, codes)


def test_weight_decay_of_the_generator_is_what_it_was():
    """The groups that the tiny main job's generator had when they were chosen by parameter names."""
    golden = json.loads((Path(__file__).parents[1] / "golden" / "optimizer_order.json").read_text())["generator"]
    model = RAR(RARConfig(32, 1, 2, 64, codebook_size=8, num_classes=3, num_tokens=4))
    decayed = {id(parameter) for parameter in decayed_parameters(model)}
    found = {name: id(parameter) in decayed for name, parameter in model.named_parameters()}
    assert found == dict.fromkeys(golden["decayed"], True) | dict.fromkeys(golden["others"], False)


class Squares(nn.Linear):
    """A model with a loss of its own."""

    def loss(self, inputs):
        return self(inputs).square().sum()


def made(run, wrapped: bool):
    torch.manual_seed(0)
    network = Squares(3, 2)
    module = LossModule(network) if wrapped else None
    return TrainedModule.with_adamw("x", network, DECAY, lambda step: 0.1, run, module=module)


def learn(trained, inputs, step=0):
    trained.optimizer.zero_grad()
    trained.network.loss(inputs).backward()
    trained.step(step)


@pytest.mark.parametrize("wrapped", [False, True])
def test_state_has_the_networks_own_names(run, wrapped):
    trained = made(run, wrapped)
    assert optimizer_state(trained) == {}
    learn(trained, torch.ones(1, 3))
    entries = ("step", "exp_avg", "exp_avg_sq")
    assert optimizer_state(trained).keys() == {f"optimizer.x.{p}.{e}" for p in ("weight", "bias") for e in entries}
    assert torch.equal(optimizer_state(trained)["optimizer.x.weight.exp_avg"], trained.network.weight.grad * (1 - 0.9))


@pytest.mark.parametrize("numbered", [False, True])
def test_state_round_trip(run, numbered):
    """Whatever module is called, and from former checkpoints, which number the parameters (matrices first)."""
    trained, resumed = made(run, wrapped=True), made(run, wrapped=False)
    for step in range(3):
        learn(trained, torch.ones(1, 3), step)
    state = {name: tensor.clone() for name, tensor in optimizer_state(trained).items()}
    if numbered:
        state = {name.replace(".weight.", ".0.").replace(".bias.", ".1."): tensor for name, tensor in state.items()}
    resumed.network.load_state_dict(trained.network.state_dict())
    load_optimizer_state(resumed, {**state, "optimizer.y.weight.step": torch.tensor(9.0), "extra.z": torch.ones(1)})
    for each in (trained, resumed):
        learn(each, torch.full((1, 3), 2.0), step=3)
    assert torch.equal(trained.network.weight, resumed.network.weight)
    assert torch.equal(trained.network.bias, resumed.network.bias)
