"""Model-FLOP utilisation: counted arithmetic over measured seconds, of the rate that is given for the device."""

import json

import pytest
import torch

from robustok.config import LossConfig
from robustok.training import loop
from robustok.training.loop import Fit
from robustok.training.run import read_log
from robustok.training.utilisation import Utilisation


class Records:
    """What Utilisation asks of a run."""

    def __init__(self):
        self.values = {}

    def stage_record(self, stage):
        return self.values

    def update_stage(self, stage, **values):
        self.values |= values


def test_the_arithmetic_of_a_step_by_hand():
    count, width, hidden = 4, 8, 16
    first, last = torch.nn.Linear(width, hidden), torch.nn.Linear(hidden, width)

    def step():
        last(first(torch.ones(count, width))).sum().backward()
        return "terms"

    run = Records()
    utilisation = Utilisation(run, "x", peak=1e6)
    assert utilisation.share(1.0) is None
    assert utilisation.count("a", None, step) == "terms"
    # both forward, both gradients of weights, and the second layer's of its input: two operations an entry each
    expected = 5 * 2 * count * width * hidden
    assert utilisation.share(10.0) == pytest.approx(10 * expected / 1e6)
    assert utilisation.count("a", "a", lambda: "not counted") == "not counted"
    resumed = Utilisation(run, "x", peak=1e6)
    resumed.count("a", "a", step)
    assert resumed.share(10.0) == utilisation.share(10.0) and run.values == {"flops": {"a": expected}}


def test_a_run_logs_it_and_counts_again_where_the_adversary_comes_in(tokenizer_stage, monkeypatch):
    monkeypatch.setattr(loop, "peak_of", lambda device, dtype: 1e9)
    stage = tokenizer_stage(losses=LossConfig(adversarial_start=0.5))
    Fit(stage, stage.run).run_to_end()
    flops = json.loads((stage.run.folder / "tokenizer" / "stage.json").read_text())["flops"]
    assert 0 < flops["tokenizer"] < flops["tokenizer+discriminator"]
    shares = [record.get("mfu") for record in read_log(stage.run.folder / "log.jsonl")]
    assert len(shares) == 9 and all(share is not None and share > 0 for share in shares)


def test_a_run_on_a_cpu_logs_none(tokenizer_stage):
    stage = tokenizer_stage()
    assert Fit(stage, stage.run).utilisation is None
