"""What training takes at the least is counted in parameters, and a device too small for it is refused."""

from types import SimpleNamespace

import pytest
import torch

from robustok.config import RunConfig
from robustok.core.errors import UserError
from robustok.job import memory
from robustok.job.memory import check_memory, device_bytes, least_bytes
from robustok.job.outline import Outline

IMAGES = SimpleNamespace(num_classes=10)


def outline(stages=("tokenizer", "generator", "evaluate"), **settings) -> Outline:
    return Outline(RunConfig(device="cpu", **settings), IMAGES, stages)


def test_it_is_five_floats_a_parameter():
    run = outline()
    weights = {"tokenizer": run.tokenizer, "generator": run.generator}
    counted = {stage: sum(p.numel() for p in model.parameters()) * 20 for stage, model in weights.items()}
    assert least_bytes(run) == counted and counted["generator"] > 1e9  # RAR-B has 261 million parameters


def test_a_device_too_small_is_refused(monkeypatch):
    most = max(least_bytes(outline()).values())
    monkeypatch.setattr(memory, "device_bytes", lambda device: most)
    assert check_memory(outline(), 1).startswith("memory: generator takes 5")
    monkeypatch.setattr(memory, "device_bytes", lambda device: most - 1)
    with pytest.raises(UserError, match=r"memory: generator takes .*; cpu has .*; make the model smaller, or shard"):
        check_memory(outline(), 8)
    assert check_memory(outline(("generator",), parallel="fsdp"), 8).startswith(
        f"memory: generator takes {most / 8e6:.0f}"
    )
    with pytest.raises(UserError, match=r"memory: tokenizer takes 33 MB .*; make the model smaller$"):  # stays whole
        monkeypatch.setattr(memory, "device_bytes", lambda device: 32_000_000)
        check_memory(outline(("tokenizer", "generator"), parallel="fsdp"), 1000)
    assert check_memory(outline(("tokens",)), 1) == "memory: no stage trains more than the classifier"


def test_this_machine_has_some():
    assert device_bytes(torch.device("cpu")) > 2**28
