"""`evaluate recipe` as a user runs it: recipes of our own, made of a first measurement, then measured again."""

import json
from hashlib import sha256

import numpy as np
import pytest
import yaml

from robustok import evaluate, sample
from robustok.core.cli import run_verb
from robustok.models.load import identity

LOOKS = "--network classifier --weights classifier --device cpu"
GENERATED = "--generator rar --tokenizer tokenizer --reference images.npz"


@pytest.fixture(scope="module")
def room(tmp_path_factory, save_models):
    """Small random models, images, and what was measured of them."""
    root = tmp_path_factory.mktemp("room")
    save_models(root, generator="rar")
    draw = np.random.default_rng(0)
    for name in ("images", "others"):
        np.savez(root / f"{name}.npz", draw.integers(0, 256, (30, 16, 16, 3), np.uint8))
    return root


@pytest.fixture(autouse=True)
def here(room, monkeypatch):
    monkeypatch.chdir(room)


def run(arguments: str, code: int = 0, verb=evaluate) -> None:
    assert run_verb(verb.main, arguments.split()) == code


def metrics(folder: str) -> dict:
    with open(f"{folder}/metrics.json") as file:
        return json.load(file)


def write_recipe(name: str, **table) -> None:
    with open(name, "w") as file:
        yaml.safe_dump({"about": "a small one", "source": "this test", **table}, file)


def around(value: float) -> dict:
    return {"value": value, "low": value - 1e-3, "high": value + 1e-3, "why": "rounding"}


@pytest.fixture(scope="module")
def generation(room):
    """A recipe of a first measurement of generated images: mine.yaml."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(room)
        given = f"rar --tokenizer tokenizer --reference images.npz {LOOKS} --output first --per_class 4 --seed 5"
        run(f"generator {given} --guidance_scale 2 --guidance_power none --temperature 1.1")
        found = metrics("first")
        expected = {"gfd": around(found["metrics"]["fd"]), "recall": around(found["metrics"]["recall"])}
        write_recipe("mine.yaml", kind="generation", conditions=found["conditions"], expected=expected)
        return found


def test_a_recipe_measured_again_lies_inside(generation, capsys):
    run(f"recipe mine.yaml {GENERATED} {LOOKS} --output again")
    out = capsys.readouterr().out
    assert "no field differs that both sides know" in out and "OUTSIDE" not in out and out.count("inside") == 2
    said = "--guidance_scale 2.0 --guidance_power none --temperature 1.1 --top_k 0 --top_p 1.0 --seed 5 --per_class 4"
    assert f"python -m robustok.evaluate generator rar --tokenizer tokenizer --reference images.npz {said}" in out
    assert metrics("again")["conditions"] == generation["conditions"]
    assert metrics("again")["metrics"] == generation["metrics"]


def test_fields_that_differ_are_named_where_a_figure_lies_outside(generation, capsys):
    other = "rar --tokenizer tokenizer --reference others.npz --per_class 4 --temperature 3 --seed 6"
    run(f"generator {other} --guidance_scale 1 {LOOKS} --output other")
    capsys.readouterr()
    run("recipe mine.yaml --figures other", code=1)
    out = capsys.readouterr().out
    assert "OUTSIDE" in out
    differ = dict(line.removeprefix("differs: ").split(": ") for line in out.splitlines() if line[:7] == "differs")
    assert differ == {
        "sampling.guidance_scale": "recipe 2.0, found 1.0",
        "sampling.guidance_power": "recipe none, found 1.15",  # the default
        "sampling.temperature": "recipe 1.1, found 3.0",
        "sampling.seed": "recipe 5, found 6",
        "reference.file": "recipe images.npz, found others.npz",
    }


def test_a_large_sample_is_held_against_the_same_recipe(generation, capsys):
    given = f"{GENERATED} {LOOKS} --n 12 --batch_size 4 --shard_images 4 --seed 5 --precision bfloat16 --output many"
    run(f"{given} --guidance_scale 2 --guidance_power none --temperature 1.1", verb=sample)
    capsys.readouterr()
    code = run_verb(evaluate.main, ["recipe", "mine.yaml", "--figures", "many/metrics.json"])
    out = capsys.readouterr().out
    differ = [line for line in out.splitlines() if line.startswith("differs")]
    assert differ == ["differs: generator.precision: recipe float32, found bfloat16"]
    assert code == (1 if "OUTSIDE" in out else 0) and "not recorded" not in out


@pytest.mark.parametrize("execution, given", [("compiled", True), ("eager", False), (None, False)])
def test_compiled_figures_are_measured_compiled(execution, given, capsys):
    conditions, expected = {"tokenizer": {"execution": execution}}, {"rfd": {"low": 0.0, "high": 1.0}}
    write_recipe("compiled.yaml", kind="reconstruction", conditions=conditions, expected=expected)
    run("recipe compiled.yaml")
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("measured by: python -m robustok.evaluate tokenizer") and ("--compile" in said) is given


def test_a_tokenizer_is_measured_as_its_recipe_says(capsys):
    conditions = {"tokenizer": {"precision": "bfloat16"}, "images": {"count": 31}, "perturbation": {"seed": 2}}
    expected = {"rfd": {"low": 0.0, "high": 1e-9}, "pfd": {"low": 0.0, "high": 1e9}}
    write_recipe("reconstruction.yaml", kind="reconstruction", conditions=conditions, expected=expected)
    run(f"recipe reconstruction.yaml --tokenizer tokenizer --images images.npz {LOOKS} --output given", code=1)
    out = capsys.readouterr().out
    assert "tokenizer tokenizer --images images.npz --pfid full --seed 2 --tokenizer_precision bfloat16" in out
    assert [line for line in out.splitlines() if line[:7] == "differs"] == [
        "differs: images.count: recipe 31, found 30"
    ]
    found = metrics("given")["tokenizers"][0]["conditions"]
    assert found["perturbation"] == {"alphas": [0.5, 0.6, 0.7, 0.8, 0.9], "deltas": [1], "seed": 2}
    assert len(found["tokenizer"]["sha256"]) == 64 and found["tokenizer"]["codebook_size"] == 64


def test_decoders_and_benchmarks_say_what_their_figures_depend_on(capsys):
    run(f"decoders tokenizer tokenizer/step-1 --generator rar --images images.npz --reference images.npz {LOOKS}"
        " --per_class 4 --pfid none --output two")  # fmt: skip
    expected = {"gfd": {"low": 0.0, "high": 1e9}}
    conditions = {"tokenizer": {"file": "step-1"}, "samples": {"per_class": 4}, "generator": {"file": "rar-b.bin"}}
    write_recipe("two.yaml", kind="generation", conditions=conditions, expected=expected)
    capsys.readouterr()
    run("recipe two.yaml --figures two --entry tokenizer/step-1")
    assert "differs: generator.file: recipe rar-b.bin, found rar\n" in capsys.readouterr().out
    entry = {"name": "mine", "file": "tokenizer", "generator": {"file": "rar", "sampling": {"temperature": 2.0}}}
    with open("list.yaml", "w") as file:
        yaml.safe_dump({"tokenizers": [entry]}, file)
    run(f"benchmark list.yaml --images images.npz --reference images.npz --per_class 4 --output ranks {LOOKS}")
    capsys.readouterr()
    run("recipe two.yaml --figures ranks")
    out = capsys.readouterr().out
    assert "differs: tokenizer.file: recipe step-1, found tokenizer\n" in out
    found = metrics("ranks")["tokenizers"][0]["conditions"]
    assert found["sampling"]["temperature"] == 2.0 and found["samples"]["count"] == 12


def test_a_run_is_compared_by_its_settings(tmp_path, capsys):
    write_recipe(
        "run.yaml",
        kind="command",
        command="python -m robustok.train --pairs.sigma 0.5",
        conditions={"training": {"pairs.sigma": 0.5, "seed": 3}},
        expected={"generator.gfd": {"value": 2.0, "low": 1.5, "high": 2.5, "why": "three seeds"}},
    )
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text(json.dumps({"distance": "FD", "generator": {"gfd": 2.25}}))
    (tmp_path / "config.yaml").write_text("base: digits\nseed: 3\npairs: {sigma: 0.7}\n")
    run(f"recipe run.yaml --figures {tmp_path}")
    out = capsys.readouterr().out
    assert "differs: training.pairs.sigma: recipe 0.5, found 0.7\n" in out and "training.seed" not in out
    run("recipe run.yaml --tokenizer tokenizer", code=2)
    assert "is measured by `python -m robustok.train --pairs.sigma 0.5`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("recipe", "rar-b, rar-b-post"),
        ("recipe rar", "gfid 1.83 +- 0.042, inception_score 298.3 +- 6"),
        ("recipe rar/rar-b", "sampling.seed: not known\n"),
        ("recipe rar/rar-b", "measured by: python -m robustok.evaluate generator rar_b.bin --tokenizer main-train.pt"),
        ("recipe mmd", "expected: mmd_lowest_alpha 0.5 to 0.9"),
    ],
)
def test_recipes_are_shown(arguments, said, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    run(arguments)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("rar --figures first", "rar has 4 recipes: name one of them"),
        ("--figures first", "--figures: name the recipe that is meant"),
        ("tokenizers/titok --figures first", "tokenizers/titok expects rfid, pfid; measured are only gfd"),
        ("rar/rar-b --figures first --reference images.npz", "--figures and --reference: give figures"),
        ("rar/rar-b --tokenizer tokenizer", "rar/rar-b: to measure it give --generator and --reference, too"),
        ("rar/rar-b --figures nowhere.json", "nowhere.json does not exist"),
    ],
)
def test_what_is_missing_is_one_message(generation, arguments, said, capsys):
    run(f"recipe {arguments}", code=2)
    err = capsys.readouterr().err
    assert said in err and err.startswith("robustok: ") and err.count("\n") == 1


def test_weights_are_known_by_the_hash_of_what_holds_them(room, tmp_path):
    manifest = room / "tokenizer" / "step-1" / "manifest.json"
    ours = {"file": "tokenizer", "sha256": sha256(manifest.read_bytes()).hexdigest()}
    assert identity("tokenizer") == ours and identity(manifest.parent) == ours | {"file": "step-1"}
    (tmp_path / "released.bin").write_bytes(b"weights")
    held = {"file": "released.bin", "sha256": sha256(b"weights").hexdigest()}
    assert identity(tmp_path / "released.bin") == held
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "config.json").write_text("{}")
    (hub / "model.safetensors").write_bytes(b"weights")
    assert identity(hub) == held | {"file": "hub"}
