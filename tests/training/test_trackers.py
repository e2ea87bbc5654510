"""What a run tells of itself, to whom, and what it never tells: no network unasked, nothing of the environment."""

import json
import socket
import sys
from types import ModuleType, SimpleNamespace

import pytest

from robustok.config import RunConfig
from robustok.core.errors import RunError, UserError
from robustok.job.preflight import check_settings
from robustok.training.loop import Fit
from robustok.training.run import Run, read_log

CANARY = "canary-4711"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def wandb(monkeypatch):
    """A module that keeps every call, as (name, arguments), in `calls`."""
    module, calls = ModuleType("wandb"), []

    def noting(name):
        return lambda *args, **named: calls.append((name, args, named))

    def init(**named):
        calls.append(("init", (), named))
        return SimpleNamespace(**{name: noting(name) for name in ("log", "alert", "define_metric", "finish")})

    module.init, module.Settings, module.calls = init, dict, calls
    module.AlertLevel = SimpleNamespace(WARN="WARN")
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_training_asks_no_network_and_tells_nothing_of_the_environment(tokenizer_stage, no_network, monkeypatch, wandb):
    """Also in the folder that a stage leaves which stopped, and where wandb was asked for."""
    for name in ("SOME_TOKEN", "WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, CANARY)
    stage = tokenizer_stage(tracker="wandb")
    training = Fit(stage, stage.run)
    take_step = training._take_step

    def spoil_later(batch):
        if training.state.step == 2:
            stage.trained[0].parameters["quant_conv.weight"].data.fill_(float("inf"))
        return take_step(batch)

    training._take_step, stage.training = spoil_later, stage.training.__class__(epochs=1, batch_size=8)
    with pytest.raises(RunError, match="stopped after steps"):
        training.run_to_end()
    stage.run.close()
    files = [path for path in stage.run.folder.rglob("*") if path.is_file()]
    assert {"bundle.json", "log.jsonl", "config.yaml", "wandb.json"} <= {path.name for path in files}
    assert any("tfevents" in path.name for path in files)
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    assert CANARY not in str(wandb.calls)


def test_wandb_gets_settings_figures_and_notes(tmp_path, wandb):
    config = RunConfig(runs=str(tmp_path), name="x", device="cpu", tracker="wandb", seed=7)
    for _ in range(2):  # resumed: the same run
        run = Run(config)
        run.log("tokenizer", 5, {"loss": 0.5})
        run.event("tokenizer", 6, "alarm", "look here")
        run.close()
    started = [named for name, _, named in wandb.calls if name == "init"]
    assert started[0] == started[1]
    assert started[0]["config"]["seed"] == 7 and started[0]["config"]["losses"]["vq"] == 1.0
    assert started[0]["dir"] == str(tmp_path / "x")
    assert started[0]["settings"]["save_code"] is False and started[0]["settings"]["x_disable_meta"]
    assert ("log", ({"tokenizer/step": 5, "tokenizer/loss": 0.5},), {}) in wandb.calls
    assert ("define_metric", ("tokenizer/*",), {"step_metric": "tokenizer/step"}) in wandb.calls
    alert = next(named for name, _, named in wandb.calls if name == "alert")
    assert alert == {"title": "tokenizer, step 6", "text": "look here", "level": "WARN"}
    assert wandb.calls[-1][0] == "finish"


def test_a_tracker_that_fails_is_left_out_and_the_log_goes_on(tmp_path, wandb, capsys):
    def init(**_):
        def fail(*_, **__):
            raise OSError("no route to host")

        return SimpleNamespace(log=fail, define_metric=fail)

    wandb.init = init
    run = Run(RunConfig(runs=str(tmp_path), name="x", device="cpu", tracker="wandb"))
    for step in range(3):
        run.log("tokenizer", step, {"loss": 0.5})
    run.close()
    assert capsys.readouterr().err.count("WeightsAndBiases is left out from here on: no route to host") == 1
    assert [line["step"] for line in read_log(run.folder / "log.jsonl")] == [0, 1, 2]


def test_none_is_the_default_and_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = Run(RunConfig(runs=str(tmp_path), name="x", device="cpu"))
    run.log("tokenizer", 5, {"loss": 0.5})
    run.close()
    assert json.loads((run.folder / "log.jsonl").read_text()) == {"stage": "tokenizer", "step": 5, "loss": 0.5}
    asked = RunConfig(runs=str(tmp_path), name="y", device="cpu", tracker="wandb")
    for opened in (check_settings, Run):  # the dry run, too
        with pytest.raises(UserError, match=r"pip install 'robustok\[wandb\]'"):
            opened(asked)
