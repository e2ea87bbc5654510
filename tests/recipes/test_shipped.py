"""The shipped recipes: what they say is what was published, and names only what there is."""

import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from robustok.benchmark.entries import PUBLISHED, read_list
from robustok.evaluation.features.inception import PUBLISHED_HASH
from robustok.evaluation.pfid import ALPHAS, delta_set
from robustok.presets import FOLDER, preset_path, read_settings
from robustok.recipes.command import _example
from robustok.recipes.reading import KINDS, SHIPPED, read_recipe, read_recipes, shipped
from robustok.studies.plan import read_study

METHOD = (Path(__file__).parents[2] / "docs" / "METHOD.md").read_text()
OWN = read_recipes("study")  # of this project's study, not of the paper
TABLES = {name: read_recipes(name) for name in shipped() if name != "study"}
RECIPES = {name: recipe for table in TABLES.values() for name, recipe in table.items()}
FIGURES = {"rfid", "pfid", "gfid", "inception_score", "precision", "recall", "mmd_lowest_alpha", "mmd_lowest_delta"}

# Written down from docs/METHOD.md: rFID, pFID, gFID without and with guidance (table 5).
ABLATION = {
    "baseline-8192": (0.81, 7.91, 14.64, 4.48),
    "baseline-4096": (0.91, 6.98, 7.91, 4.13),
    "beta-0.5": (3.97, 4.52, 9.31, 5.40),
    "beta-0.1": (1.58, 3.61, 4.60, 3.93),
    "annealed-to-0": (0.97, 4.89, 5.32, 1.97),
    "annealed-to-0.5": (1.02, 2.28, 4.62, 1.85),
}
GFID = {
    "rar/rar-b": 1.83,
    "rar/rar-b-post": 1.60,
    "rar/rar-l": 1.60,
    "rar/rar-l-post": 1.36,
    "post-training/llamagen": 3.80,
    "post-training/llamagen-post": 3.51,
    "post-training/gigatok": 3.84,
    "post-training/gigatok-post": 3.68,
    "post-training/maetok": 1.87,
    "post-training/maetok-post": 1.68,
    "post-training/maetok-noise": 1.74,
    "post-training/maetok-noise-post": 1.70,
    "post-training-design/sigma-0.5": 1.98,
    "post-training-design/sigma-0.6": 1.83,
    "post-training-design/sigma-0.7": 1.79,
    "post-training-design/sigma-0.8": 1.79,
    "post-training-design/sigma-0.9": 1.80,
    "post-training-design/pairs-0.2m": 1.60,
    "post-training-design/pairs-1m": 1.59,
    "post-training-design/epochs-10": 1.79,
    "post-training-design/epochs-20": 1.72,
    "post-training-design/epochs-30": 1.64,
    "post-training-design/epochs-40": 1.60,
    "post-training-design/epochs-50": 1.65,
}


@cache
def parser(module: str):
    return import_module(module)._parser()


def value(name: str, figure: str) -> float:
    return RECIPES[name].expected[figure].value


def test_tables_of_the_paper_are_whole():
    """Each number of METHOD.md's lists of tokenizers, read there by name and here by recipe."""
    line = next(line for line in METHOD.splitlines() if line.startswith("- Published: RobusTok rFID"))
    of_b = re.findall(r"([\w-]+) (\d+\.\d+)/(\d+\.\d+)/(\d+\.\d+)", line)
    of_l = re.search(r"Under LlamaGen-L.*?: ([\d., ]+) in the same order", line)[1].split(", ")
    expected = {}
    for (name, *numbers), last in zip(of_b, of_l, strict=True):
        row = {"vqgan": "vqgan-16384"}.get(name.lower(), name.lower())
        expected[row] = [*map(float, numbers), float(last)]
    found = {}
    for row in expected:
        plain = [value(f"tokenizers/{row}", figure) for figure in ("rfid", "pfid")]
        found[row] = plain + [value(f"tokenizers-llamagen-{size}/{row}", "gfid") for size in "bl"]
    assert found == expected and len(expected) == 11
    assert {name.partition("/")[2] for name in TABLES["tokenizers"]} == {*expected, "maskgit-table-2"}
    assert value("tokenizers/maskgit-table-2", "pfid") == 5.03 and "5.03 in table 2" in METHOD


def test_the_other_numbers_are_as_published():
    tables = ("ablation", "ablation", "ablation-unguided", "ablation-guided")
    columns = list(zip(tables, ("rfid", "pfid", "gfid", "gfid"), strict=True))
    found = {row: tuple(value(f"{table}/{row}", figure) for table, figure in columns) for row in ABLATION}
    assert found == ABLATION
    assert {name: value(name, "gfid") for name in GFID} == GFID
    scores = [value(f"rar/{row}", "inception_score") for row in ("rar-b", "rar-b-post", "rar-l", "rar-l-post")]
    assert scores == [298.3, 288.0, 305.8, 300.2]
    assert (value("rar/rar-l-post", "precision"), value("rar/rar-l-post", "recall")) == (0.77, 0.66)
    lowest = [(figure.low, figure.high) for figure in RECIPES["mmd"].expected.values()]
    assert lowest == [(0.5, 0.9), (200, 360)]
    held = {*tables, "mmd", "tokenizers", "tokenizers-llamagen-b", "tokenizers-llamagen-l"}
    assert {name for name in RECIPES if name.partition("/")[0] not in held} == GFID.keys()


def test_settings_of_sampling_are_those_of_the_presets_and_of_the_paper():
    written = {"rar-b": (1.02, 6.0, 1.15), "rar-l": (1.04, 6.75, 1.01)}  # temperature, scale, power: section 5
    names = ("temperature", "guidance_scale", "guidance_power")
    for preset, numbers in written.items():
        sampling = read_settings(preset_path(preset))["sampling"]
        for row in (preset, f"{preset}-post"):
            conditions = RECIPES[f"rar/{row}"].conditions
            assert tuple(conditions[f"sampling.{name}"] for name in names) == numbers
            assert tuple(sampling[name] for name in names) == numbers
            assert conditions["generator.file"] == f"{preset.replace('-', '_')}.bin" in METHOD
            assert conditions["tokenizer.file"] == ("post-train.pt" if row.endswith("post") else "main-train.pt")


def test_perturbations_are_those_of_pfid():
    for table in ("tokenizers", "ablation"):
        for recipe in TABLES[table].values():
            conditions = recipe.conditions
            codes = conditions.get("tokenizer.codebook_size") or conditions["training.tokenizer.codebook_size"]
            assert conditions["perturbation.deltas"] == sorted(delta_set(codes)), recipe.name
            assert conditions["perturbation.alphas"] == sorted(ALPHAS)


def test_files_and_figures_are_those_of_the_benchmark_list():
    for entry in read_list("published").tokenizers:
        names = [
            f"{table}/{entry.name.lower()}"
            for table in ("tokenizers", "tokenizers-llamagen-b", "tokenizers-llamagen-l")
        ]
        for name in names:
            conditions = RECIPES[name].conditions
            assert conditions["tokenizer.file"] == entry.file
            assert conditions["tokenizer.codebook_size"] == entry.codebook_size
        found = [value(names[0], "rfid"), value(names[0], "pfid"), value(names[1], "gfid"), value(names[2], "gfid")]
        assert found == [entry.published[name] for name in PUBLISHED]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_where_it_is_from_and_how_it_is_measured(name):
    recipe = RECIPES[name]
    assert read_recipe(name).expected == recipe.expected and recipe.kind in KINDS
    assert "arXiv 2509.12474" in recipe.source
    for section in re.search(r"docs/METHOD.md, sections? (.+)$", recipe.source)[1].split(" and "):
        assert f"\n## {section}. " in METHOD
    assert set(recipe.expected) <= FIGURES and all(expected.why for expected in recipe.expected.values())
    assert not any(known for field, known in recipe.conditions.items() if field.endswith(".sha256"))  # never had them
    assert recipe.conditions.get("features.weights", PUBLISHED_HASH).startswith(PUBLISHED_HASH)


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_of_a_recipe_is_one_that_there_is(name):
    recipe = RECIPES[name]
    words = (recipe.command or f"python -m robustok.evaluate {_example(recipe)}").split()
    options = parser(words[2]).parse_args(words[3:])
    asked = {"reconstruction": "tokenizer", "generation": "generator", "command": "mmd"}[recipe.kind]
    assert options.command.__name__ == asked


@pytest.mark.parametrize("name", OWN)
def test_a_recipe_of_the_study_is_of_a_row_and_runs_it(name):
    """Its conditions are the row's settings, its command runs the row after those whose models it takes."""
    recipe, study = OWN[name], read_study(FOLDER / "study/emoji.yaml")
    row = study.rows[name.partition("/")[2]]
    options = parser("robustok.study").parse_args(recipe.command.split()[3:])
    assert options.rows == [*dict.fromkeys(filter(None, (row.tokenizer, row.generator))), row.name]
    assert options.seeds is None or options.seeds == row.seeds
    settings = {f"training.{section}.{key}" for section, values in row.settings.items() for key in values}
    assert set(recipe.conditions) == settings and recipe.kind == "command"
    assert {"tokenizer.pfd", "generator.gfd", "post.gfd"} <= recipe.expected.keys()


def test_files_are_small_and_name_no_host():
    for path in SHIPPED.glob("*.yaml"):
        text = path.read_text()
        assert len(text) < 1 << 14 and not re.search(r"https?:|\.(com|co|org)\b", text)
        assert text.startswith("# ")
