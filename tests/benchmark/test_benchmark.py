"""The benchmark of a list of tokenizers, as a user runs it: on small random models, in one run, in many, and killed."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from robustok import evaluate
from robustok.benchmark import tasks, work
from robustok.benchmark.entries import Entry
from robustok.benchmark.inputs import Inputs
from robustok.checkpoints import writing as checkpoints
from robustok.core.cli import run_verb
from robustok.core.locks import claim
from robustok.evaluation import interpolation_fid, noise_fid
from robustok.evaluation.streams import open_stream
from robustok.model_configs import ConvTokenizerConfig, MAETokConfig, RARConfig, TokenizerConfig
from robustok.models.generators.rar import RAR
from robustok.models.load import load_tokenizer
from robustok.models.tokenizers.conv_tokenizer import ConvTokenizer
from robustok.models.tokenizers.maetok import MAETok
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer

SIZE = 16
GIVEN = "--images images --reference others.npz --per_class 8"


class Means:
    """Features that can be checked by hand: the mean of each colour in four quarters of the image."""

    protocol, sha256 = "means", None

    def __call__(self, images):
        return SimpleNamespace(features=nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1))


LIST = {
    "tokenizers": [
        {
            "name": "first",
            "file": "vit",
            "codebook_size": 256,
            "generator": {"file": "rar", "sampling": {"guidance_scale": 1.5}},
            "published": {"rfid": 1.02, "pfid": 2.28},
        },
        {"name": "by product", "file": "ibq"},
    ]
}


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder with two tokenizers, of 16 and of 12 pixels, a generator of the first, and images."""
    root = tmp_path_factory.mktemp("room")
    torch.manual_seed(0)
    shape = TokenizerConfig(image_size=SIZE, patch_size=8, width=32, depth=1, heads=2, codebook_size=256, code_width=4)
    order = RARConfig(width=32, depth=1, heads=2, mlp_width=64, codebook_size=256, num_classes=3, num_tokens=4)
    ibq = ConvTokenizerConfig(
        image_size=12, widths=(32, 32), stem_width=32, blocks=1, decoder_blocks=1, attention=(), feature_width=8,
        codebook_size=192, code_width=6, similarity="dot",
    )  # fmt: skip
    for name, kind, model, config in (
        ("vit", "tokenizer", ViTTokenizer(shape), asdict(shape)),
        ("ibq", "conv_tokenizer", ConvTokenizer(ibq), asdict(ibq)),
        ("rar", "rar", RAR(order), asdict(order)),
    ):
        weights = {"model": model.state_dict(), "ema": model.state_dict()}
        checkpoints.save(root / name / "step-1", weights, {"config": {"kind": kind, "config": config}})
    draw = np.random.default_rng(0)
    np.savez(root / "others.npz", draw.integers(0, 256, (24, SIZE, SIZE, 3), np.uint8))
    (root / "images").mkdir()
    for number, array in enumerate(draw.integers(0, 256, (24, SIZE, SIZE, 3), np.uint8)):
        Image.fromarray(array).save(root / "images" / f"{number:03}.png")
    return root


@pytest.fixture(autouse=True)
def here(room, monkeypatch):
    """In the room, with features that cost nothing, and parts that are small."""
    monkeypatch.chdir(room)
    monkeypatch.setattr(work, "PART", 20)
    monkeypatch.setattr("robustok.evaluation.features.registry.open_network", lambda *options: Means())


@pytest.fixture
def run(tmp_path):
    """run(output, arguments, content of the list, exit code) -> the bytes of metrics.json, None where there is none."""

    def call(output="out", arguments="", content=LIST, code=0) -> bytes | None:
        path = tmp_path / "list.yaml"
        path.write_text(yaml.safe_dump(content))
        folder = tmp_path / output
        argv = ["benchmark", str(path), *GIVEN.split(), *arguments.split(), "--device", "cpu", "--output", str(folder)]
        assert run_verb(evaluate.main, argv) == code
        metrics = folder / "metrics.json"
        return metrics.read_bytes() if metrics.is_file() else None

    return call


@pytest.fixture
def measured(monkeypatch):
    """What was measured, a name for each finished unit; one more than `measured.limit` kills."""

    class Log(list):
        limit = 1000

    log = Log()
    for name in ("perturbed_moments", "moments_of", "noise_fid", "interpolation_fid"):
        original = getattr(tasks, name)

        def counted(*args, original=original, **how):
            if len(log) >= log.limit:
                raise KeyboardInterrupt
            found = original(*args, **how)
            log.append(original.__name__)
            return found

        monkeypatch.setattr(tasks, name, counted)
    return log


UNITS = 10  # two parts of each reconstruction (the second's twice) and of generation, and two interpolations


def test_figures_are_those_of_the_single_commands(run, tmp_path):
    first, second = json.loads(run())["tokenizers"]
    options = f"--device cpu --output {tmp_path / 'alone'}"
    assert run_verb(evaluate.main, f"tokenizer vit ibq --images images {options}".split()) == 0
    expected = json.loads((tmp_path / "alone" / "metrics.json").read_text())["tokenizers"]
    for found, alone in zip((first, second), expected, strict=True):
        assert found["images"] == 24 and found["codebook_size"] == alone["codebook_size"]
        for name in ("rfd", "pfd"):
            assert found[name] == pytest.approx(alone[name], rel=1e-4)
        cells = [[cell["value"] for cell in side["pfd_settings"]] for side in (found, alone)]
        assert cells[0] == pytest.approx(cells[1], rel=1e-4) and len(cells[0]) == 15
    variant = "pfd_with_unperturbed_tokens_by_l2"
    assert second[variant] == pytest.approx(expected[1][variant], rel=1e-4) and variant not in first
    assert second[variant] != second["pfd"]
    models = "generator rar --tokenizer vit --reference others.npz --per_class 8 --guidance_scale 1.5"
    assert run_verb(evaluate.main, f"{models} {options}".split()) == 0
    alone = json.loads((tmp_path / "alone" / "metrics.json").read_text())["metrics"]
    assert first["gfd"] == pytest.approx(alone["fd"], rel=1e-4)
    tokenizer = load_tokenizer("vit")
    assert first["ifd"] == pytest.approx(interpolation_fid(tokenizer, open_stream("images", SIZE), Means()).value)
    assert first["samples"] == 24 and "gfd" not in second
    report = (tmp_path / "out" / "report.html").read_text()
    assert "published rFID" in report and "by product" in report


def test_a_continuous_tokenizer_is_measured_under_noise(run, room):
    torch.manual_seed(3)
    shape = MAETokConfig(
        **dict(image_size=SIZE, patch_size=4, width=32, depth=1, heads=2, num_latents=4, latent_width=4),
        **dict(targets=(), hidden=(0.0, 0.0)),
    )
    weights = {"ema": MAETok(shape).state_dict()}
    checkpoints.save(room / "maetok" / "step-1", weights, {"config": {"kind": "maetok", "config": asdict(shape)}})
    (found,) = json.loads(run(content={"tokenizers": [{"name": "latents", "file": "maetok"}]}))["tokenizers"]
    expected = noise_fid(load_tokenizer("maetok"), open_stream("images", SIZE), Means())
    assert (found["rfd"], found["nfd"]) == pytest.approx((expected.rfid, expected.mean))
    assert [cell["value"] for cell in found["nfd_settings"]] == pytest.approx(list(expected.table.values()))
    assert found["ifd"] > 0 and found["codebook_size"] is None and "pfd" not in found


def test_a_run_killed_after_every_unit_goes_on(run, measured):
    whole = run("whole")
    assert len(measured) == UNITS
    for done in range(1, UNITS):
        measured.limit = UNITS + done
        assert run(code=130) is None and len(measured) == UNITS + done
    measured.limit = 2 * UNITS
    assert run() == whole
    assert run() == whole and len(measured) == 2 * UNITS  # nothing twice
    assert not list((Path.cwd() / "out").glob("parts/*"))


def test_two_shards_are_one_run(run, measured, capsys):
    assert run(arguments="--shard 2/2") is None and len(measured) == UNITS // 2
    assert "not there yet: first (reconstruction), first (interpolation), " in capsys.readouterr().out
    found = run(arguments="--shard 1/2")
    assert len(measured) == UNITS
    assert found == run("whole")


def test_a_unit_that_another_run_is_at_is_left_to_it(run, measured, tmp_path, capsys):
    run(arguments="--shard 1/10")
    (part,) = (tmp_path / "out" / "parts").glob("*/0.safetensors")
    part.unlink()
    with claim(tmp_path / "out" / "locks" / f"{part.parent.name}-0"):
        assert run() is None
    assert len(measured) == UNITS and "not there yet: first (reconstruction)" in capsys.readouterr().out
    assert run() and len(measured) == UNITS + 1


def test_figures_depend_on_what_they_are_of(run, measured):
    run()
    renamed = {"tokenizers": [LIST["tokenizers"][0] | {"name": "another", "published": {}}]}
    run(content=renamed)
    assert len(measured) == UNITS  # a name is none of it
    run(content=renamed, arguments="--seed 1")
    assert len(measured) == UNITS + 5
    run(content=renamed, arguments="--seed 1 --per_class 3")
    assert len(measured) == UNITS + 6
    run(content=renamed, arguments="--seed 1 --per_class 3 --tokenizer_precision bfloat16")
    assert len(measured) == UNITS + 10
    (row,) = json.loads(run(content=renamed, arguments="--seed 1 --tokenizer_precision bfloat16"))["tokenizers"]
    assert row["conditions"]["tokenizer"]["precision"] == "bfloat16"


def test_figures_of_compiled_tokenizers_are_kept_apart(room):
    entry = Entry("first", "vit")
    given = {"folder": room, "images": str(room / "images"), "network": Means(), "device": torch.device("cpu")}
    plain, compiled = (Inputs(**given, compiled=choice).facts(entry)["tokenizer"] for choice in (False, True))
    assert compiled == f"{plain}, compiled"


def test_a_missing_file_is_a_row_that_says_so(run, tmp_path, capsys):
    lost = {"name": "lost", "file": "nowhere.pt", "source": "some/where", "licence": "MIT", "published": {"rfid": 2.5}}
    orphan = LIST["tokenizers"][0] | {"name": "orphan", "generator": {"file": "no-generator"}}
    first, second = json.loads(run(content={"tokenizers": [lost, orphan], "notes": ["nothing"]}))["tokenizers"]
    assert not first["is_measured"] and first["published_rfid"] == 2.5 and "rfd" not in first
    assert second["rfd"] > 0 and "gfd" not in second
    said = capsys.readouterr().err
    assert "lost: not measured: nowhere.pt is not there; from some/where, licence: MIT" in said
    assert "orphan: no gFID: its generator no-generator is not there" in said and "note: nothing" in said
    assert "nowhere.pt" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"codebook_size": 64}, "first: codebook_size: found 64, but the file has 256 codes"),
        ({"generator": {"file": "rar", "sampling": {"warmth": 1}}}, "first: generator, sampling, warmth: no such"),
        ({"generator": {"file": "rar", "sampling": {"temperature": -1}}}, "first: temperature: found -1"),
        ({"file": "images"}, "first: "),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_measured(run, measured, capsys, change, said):
    run(content={"tokenizers": [LIST["tokenizers"][1], LIST["tokenizers"][0] | change]}, code=2)
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and said in printed and not measured


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_a_shard_that_is_none(shard):
    with pytest.raises(SystemExit):
        evaluate.main(["benchmark", "published", "--shard", shard])


def test_what_a_process_killed_while_it_wrote_figures_left_goes(run, tmp_path):
    run()
    path = next((tmp_path / "out" / "figures").glob("*.json"))
    path.rename(path.with_name(f".{path.name}.0123456789abcdef.tmp"))
    run()
    assert path.is_file() and not list(path.parent.glob(".*"))
