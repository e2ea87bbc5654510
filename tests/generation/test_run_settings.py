"""A generator that a run made is sampled as the run sampled it, where options and preset say nothing else."""

import json
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import yaml

from robustok import evaluate, sample
from robustok.config import SamplingConfig
from robustok.core.cli import run_verb
from robustok.presets import run_settings_file, sampling_defaults

OF_THE_RUN = {"guidance_scale": 2.0, "guidance_power": None, "temperature": 0.5, "top_k": 3, "top_p": 0.9}


@pytest.fixture
def run(checkpoint, tmp_path) -> Path:
    """A run's folder with its settings, and the generator as a stage leaves it."""
    folder = tmp_path / "runs" / "x"
    copytree(checkpoint / "rar", folder / "generator" / "step-3")
    (folder / "generator" / "stage.json").write_text(json.dumps({"finished": True, "best": "step-3"}))
    flow = {"solver": "heun", "guidance_interval": [0.1, 0.8]}
    settings = {"sampling": OF_THE_RUN | {"batch_size": 7}, "flow_sampling": flow}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_the_run_of_a_checkpoint_is_found(run, checkpoint, monkeypatch):
    for path in (run / "generator", run / "generator" / "step-3"):
        assert run_settings_file(path) == run / "config.yaml"
    for path in (run, checkpoint / "rar", "rar_b.bin", "owner/name"):
        assert run_settings_file(path) is None
    monkeypatch.chdir(run / "generator")
    assert run_settings_file("step-3") == run_settings_file(".") == run / "config.yaml"


def test_defaults_of_run_preset_and_package(run, checkpoint, capsys):
    assert sampling_defaults(run / "generator", "sampling") == OF_THE_RUN
    assert "guidance_scale 2.0, guidance_power none, temperature 0.5" in capsys.readouterr().err
    flow = sampling_defaults(run / "generator", "flow_sampling")
    assert (flow["solver"], flow["guidance_interval"], flow["steps"]) == ("heun", (0.1, 0.8), 50)
    capsys.readouterr()
    assert sampling_defaults(run / "generator", "sampling", "rar-b")["guidance_scale"] == 6.0  # as the preset has it
    assert sampling_defaults(checkpoint / "rar", "sampling")["temperature"] == SamplingConfig().temperature
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), OF_THE_RUN),
        (("--temperature", "0", "--guidance_power", "1.5"), OF_THE_RUN | {"temperature": 0.0, "guidance_power": 1.5}),
    ],
)
def test_sample_and_evaluate_take_them(run, checkpoint, samplers, tmp_path, monkeypatch, options, expected, capsys):
    """The figure of `evaluate generator` and the images of `sample` are of the same settings, unless options say so."""
    from tests.generation.test_batches import Means

    monkeypatch.setattr("robustok.evaluation.features.registry.open_network", lambda *options: Means())
    np.savez(tmp_path / "images.npz", np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8))
    tokenizer = f"--tokenizer {checkpoint}/tokenizer --device cpu"
    drawn = f"--generator {run}/generator {tokenizer} --grid 1x2 --output {tmp_path}/grid.png"
    judged = f"generator {run}/generator {tokenizer} --reference {tmp_path}/images.npz --per_class 3"
    assert run_verb(sample.main, [*drawn.split(), *options]) == 0
    assert run_verb(evaluate.main, [*judged.split(), "--output", f"{tmp_path}/out", *options]) == 0
    assert len(samplers) == 2
    for sampler in samplers:
        assert vars(sampler.settings) == expected
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert expected.items() <= record["samples"]["sampling"].items()
    assert capsys.readouterr().err.count(f"({run / 'config.yaml'})") == 2


@pytest.mark.parametrize("setting", ["--temperature=-1", "--guidance_scale=inf", "--guidance_power=0", "--top_p=2"])
def test_sample_and_evaluate_refuse_the_same(run, checkpoint, tmp_path, setting, capsys):
    tokenizer = f"--tokenizer {checkpoint}/tokenizer --device cpu"
    drawn = f"--generator {run}/generator {tokenizer} --grid 1x2 --output {tmp_path}/grid.png {setting}"
    judged = f"generator {run}/generator {tokenizer} --reference r.npz --output {tmp_path}/out {setting}"
    said = []
    for verb, argv in ((sample, drawn), (evaluate, judged)):
        assert run_verb(verb.main, argv.split()) == 2
        said.append(capsys.readouterr().err.splitlines()[-1])
    assert said[0] == said[1] and f"{setting[2:].partition('=')[0]}: found" in said[0]
