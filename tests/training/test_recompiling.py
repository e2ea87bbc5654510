"""With --compile a step is compiled once: what schedules move (perturbation, rates, the adversary's start) stays an
input of the same graphs, to the end.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from robustok.config import LossConfig, OrderConfig, PerturbationConfig, TrainingConfig
from robustok.data.tokens import write_tokens
from robustok.model_configs import RARConfig
from robustok.models.frozen.networks import placed
from robustok.models.generators.rar import RAR
from robustok.models.vit import Block
from robustok.training.loop import Fit
from robustok.training.run import Run
from robustok.training.stages.generator import GeneratorStage

from .conftest import CONFIG


@pytest.fixture(autouse=True)
def traced_alone(monkeypatch):
    """Blocks are traced as for any backend; no code is generated for them."""
    torch._dynamo.reset()
    compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compile(module, backend="eager"))
    yield
    torch._dynamo.reset()


def graphs_of_steps(fit: Fit) -> list[tuple[int, dict]]:
    """The graphs traced so far and the terms, after each step of a whole training."""
    found = []
    counters.clear()
    for batch in fit._batches():
        terms = fit._take_step(batch)
        fit.state.step += 1
        found.append((counters["stats"]["unique_graphs"], {name: value.item() for name, value in terms.items()}))
    assert not counters["graph_break"]
    return found


def test_more_kinds_of_blocks_than_torch_takes_by_default():
    counters.clear()
    for width in range(8, 8 * 13, 8):
        block = Block(width, heads=2)
        block.compile()
        block(torch.randn(1, 3, width))
    assert counters["stats"]["unique_graphs"] == 12


def test_a_tokenizer_while_its_schedules_move(tokenizer_stage):
    """alpha and delta fall over the middle of the training, the blur of the adversary, which comes in late, to its end.

    Stochastic depth has another rate in every block: that is an input, too, beside the first block, which has none.
    """
    stage = tokenizer_stage(
        compile=True,
        tokenizer=replace(CONFIG.tokenizer, depth=4, drop_path=0.2),
        perturbation=PerturbationConfig(beta=0.5, delta=8, anneal_start=0.2, anneal_end=0.9, anneal_end_ratio=0.1),
        losses=LossConfig(adversarial_start=0.4, blur_epochs=0.5),
        tokenizer_training=replace(CONFIG.tokenizer_training, warmup_epochs=0.3),
    )
    for network in vars(stage.frozen).values():
        placed(network, torch.device("cpu"), True)
    graphs, terms = zip(*graphs_of_steps(Fit(stage, stage.run)), strict=True)
    start = next(i for i, found in enumerate(terms) if "adversarial" in found)
    assert 2 <= start <= len(terms) - 4 and terms[0]["perturbed"] > terms[-1]["perturbed"]
    assert len(set(graphs[:start])) == 1  # one step warms up
    assert len(set(graphs[start:])) == 1  # and one for what the adversary looks through
    # blocks of encoder and decoder, the first ones for themselves; teacher and perceptual network; then the backbone,
    # with a gradient to the images and without
    assert (graphs[0], graphs[start]) == (6, 8)


def test_rar_while_its_schedules_move(tmp_path):
    order = OrderConfig(anneal_start=2.0, anneal_end=6.0)
    training = TrainingConfig(epochs=8, batch_size=8, warmup_epochs=2.0, ema=0.9, clip_norm=1.0)
    run = Run(replace(CONFIG, runs=str(tmp_path), compile=True, order=order, generator_training=training))
    tokens, ids = torch.randint(16, (16, 4)), torch.arange(16)
    about = {"tokenizer": "t", "class_names": ["x"] * 10, "codebook_size": 16}
    rows = write_tokens(tmp_path / "rows", tokens, ids % 10, ids, about)
    model = RAR(RARConfig(32, 3, 2, 64, codebook_size=16, num_classes=10, num_tokens=4))
    try:
        graphs = [count for count, _ in graphs_of_steps(Fit(GeneratorStage(run, model, rows), run))]
    finally:
        run.close()
    assert graphs == [1] * 16
