"""Samples that are computed faster than exactly, and where their figures are computed."""

import copy
import json
from typing import NamedTuple

import numpy as np
import pytest
import torch

from robustok import evaluate, sample
from robustok.core.cli import run_verb
from robustok.evaluation.statistics import StatisticsCollector
from robustok.generation.batches import GeneratedImages
from robustok.generation.classes import weights_hash
from robustok.generation.feature_writer import FeatureWriter
from robustok.models.computing import precision_of


class Features(NamedTuple):
    features: torch.Tensor


class Colours:
    """Nine features of an image."""

    protocol = "colours"

    def __call__(self, images):
        return Features(torch.nn.functional.adaptive_avg_pool2d(images.float(), (1, 3)).flatten(1))


class Empty(list):
    parts = ()


def test_a_sample_in_bfloat16_is_another(checkpoint, monkeypatch, tmp_path, capsys):
    """It says so, its images are near, and no exact one is continued with it."""
    monkeypatch.setattr(sample, "_network", lambda options: Colours())
    given = f"--generator {checkpoint}/rar --tokenizer {checkpoint}/tokenizer --n 5 --seed 6 --device cpu --save npy"
    assert run_verb(sample.main, [*given.split(), "--output", str(tmp_path / "exact")]) == 0
    assert "computing: tokenizer in float32\n" in capsys.readouterr().out
    exact = np.load(tmp_path / "exact/images.npy").astype(int)
    np.savez(tmp_path / "reference.npz", arr_0=exact.astype(np.uint8))
    argv = [*given.split(), "--output", str(tmp_path / "run"), "--reference", str(tmp_path / "reference.npz")]
    assert run_verb(sample.main, [*argv, "--tokenizer_precision", "bfloat16"]) == 0
    assert "computing: tokenizer in bfloat16; exact features\n" in capsys.readouterr().out
    record = json.loads((tmp_path / "run/metrics.json").read_text())["conditions"]
    assert (record["tokenizer"]["precision"], record["generator"]["precision"]) == ("bfloat16", "float32")
    error = np.abs(np.load(tmp_path / "run/images.npy") - exact)
    assert 0 < error.max() < 10
    assert run_verb(sample.main, argv) == 2
    assert "tokenizer_precision" in capsys.readouterr().err


def test_a_sample_of_compiled_steps_is_another(checkpoint, tmp_path, capsys):
    """Fused operations round differently. What is not decoded has no precision that it was decoded in."""
    run = tmp_path / "run"
    argv = f"--generator {checkpoint}/rar --n 3 --guidance_scale 2 --device cpu --output {run}".split()
    assert run_verb(sample.main, [*argv, "--tokenizer_precision", "bfloat16"]) == 0
    assert "tokenizer_precision" not in json.loads((run / "tokens/manifest.json").read_text())
    assert run_verb(sample.main, [*argv, "--compile"]) == 2
    assert "compile" in capsys.readouterr().err
    assert run_verb(sample.main, argv) == 0


def test_a_grid_is_sampled_as_asked(checkpoint, samplers, tmp_path):
    """The step that a GPU replays is compiled; on a CPU the sampler is told so and does without."""
    argv = f"--generator {checkpoint}/rar --tokenizer {checkpoint}/tokenizer --grid 1x1 --guidance_scale 2 --device cpu"
    for given in ([], ["--compile"]):
        with torch.compiler.set_stance("force_eager"):
            assert run_verb(sample.main, [*argv.split(), "--output", str(tmp_path / "grid.png"), *given]) == 0
    assert [sampler.compile for sampler in samplers] == [False, True]


def test_the_same_weights_in_another_precision_are_other_images(make_model):
    """Weights that bfloat16 holds exactly have one hash in both; the parts of the one are no parts of the other."""
    model, told = make_model(4, 16, 3).bfloat16(), {"per_class": 1, "seed": 0, "name": "rar", "guidance_scale": 1.0}
    exact = copy.deepcopy(model).float()
    assert weights_hash(exact) == weights_hash(model)
    streams = [GeneratedImages(model, model, **told), GeneratedImages(exact, model, **told)]
    streams += [GeneratedImages(exact, model, compiled=True, **told)]
    assert len({stream.fingerprint() for stream in streams}) == 3
    assert streams[0].fingerprint() == GeneratedImages(model, model, **told).fingerprint()


def test_what_fast_changes_is_said_without_a_tokenizer_too(checkpoint, tmp_path, capsys):
    argv = f"--generator {checkpoint}/rar --n 1 --guidance_scale 2 --device cpu --fast".split()
    for more, said in (([], "as without --fast"), (["--compile"], "compiled steps")):
        with torch.compiler.set_stance("force_eager"):
            assert run_verb(sample.main, [*argv, *more, "--output", str(tmp_path / said)]) == 0
        assert f"computing: {said}\n" in capsys.readouterr().out


def test_images_that_nobody_asked_for_are_not_decoded(checkpoint, monkeypatch, tmp_path):
    def decode(self, indices):
        raise AssertionError("decoded")

    monkeypatch.setattr("robustok.models.tokenizers.vit_tokenizer.ViTTokenizer.detokenize", decode)
    argv = f"--generator {checkpoint}/rar --tokenizer {checkpoint}/tokenizer --n 2 --guidance_scale 2 --device cpu"
    assert run_verb(sample.main, [*argv.split(), "--output", str(tmp_path / "tokens")]) == 0
    with pytest.raises(AssertionError, match="decoded"):
        sample.main([*argv.split(), "--output", str(tmp_path / "images"), "--save", "npy"])


def test_one_image_is_not_compared(checkpoint, tmp_path, capsys):
    """It has no covariance, which was found out after sampling before."""
    argv = f"--generator {checkpoint}/rar --tokenizer {checkpoint}/tokenizer --n 1 --reference r.npz --device cpu"
    assert run_verb(sample.main, [*argv.split(), "--output", str(tmp_path / "run")]) == 2
    assert "--n: found 1, expected at least two images" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["", "--precision bfloat16", "--tokenizer_precision bfloat16", "--compile"])
def test_figures_say_how_both_models_compute(checkpoint, monkeypatch, tmp_path, given):
    used = {}

    def measured(stream, network, reference, output, *, made, **options):
        used["generator"], used["decoder"] = next(stream.generator.parameters()).dtype, precision_of(stream.tokenizer)
        used["said"] = made["generator"]["precision"], made["tokenizer"]["precision"]
        used["compiled"] = stream.sampler.compile, stream.tokenizer.decode.compiled
        used["execution"] = made["generator"]["execution"], made["tokenizer"]["execution"]

    monkeypatch.setattr("robustok.report.comparison.report_stream", measured)
    monkeypatch.setattr("robustok.evaluation.features.registry.open_network", lambda *options: Colours())
    asked = f"generator {checkpoint}/rar --tokenizer {checkpoint}/tokenizer --reference r.npz --device cpu {given}"
    assert run_verb(evaluate.main, [*asked.split(), "--output", str(tmp_path / "out")]) == 0
    expected = tuple("bfloat16" if given.startswith(name) else "float32" for name in ("--precision", "--tokenizer"))
    assert used["said"] == (str(used["generator"]).removeprefix("torch."), used["decoder"]) == expected
    assert used["compiled"] == (bool(given == "--compile"),) * 2
    assert used["execution"] == (("compiled" if given == "--compile" else "eager"),) * 2


def test_moments_are_taken_where_the_network_is(tmp_path, monkeypatch):
    """On a GPU, whose covariances of 50,000 rows the host would take seconds for; meta tensors stand for it."""
    writer, found, network = FeatureWriter(tmp_path), [], Colours()
    for number in range(2):
        writer.write(number, [Features(torch.randn(4, 9)), Features(torch.randn(3, 9))])
    network.device = torch.device("meta")
    monkeypatch.setattr(StatisticsCollector, "add", lambda self, output: found.append(output.features))
    monkeypatch.setattr(StatisticsCollector, "statistics", lambda self, network, **about: None)
    writer.collect(2, network, Empty(), torch.zeros(0, dtype=torch.int64), "name")
    assert [(rows.device.type, rows.shape) for rows in found] == [("meta", (7, 9))] * 2
