"""Files of recipes: what they say, what is refused, and how figures are held against them."""

import copy
import json

import pytest
import yaml

from robustok.core.errors import UserError
from robustok.recipes.comparing import compare
from robustok.recipes.found import read_found
from robustok.recipes.page import in_words
from robustok.recipes.reading import Expected, Recipe, read_recipe, read_recipes

TABLE = {
    "about": "a tiny table",
    "source": "this test",
    "kind": "generation",
    "conditions": {"sampling": {"temperature": 1.0, "seed": None}, "training": {"pairs.sigma": 0.7}},
    "tolerance": {"gfid": {"absolute": 0.005, "relative": 0.1, "why": "two decimals and a tenth"}},
    "rows": {
        "first": {"about": "one", "expected": {"gfid": 2.0}, "notes": ["small"]},
        "second": {
            "conditions": {"sampling": {"temperature": 1.5}},
            "expected": {"gfid": {"value": 3.0, "low": 2.5, "high": 4.0}},
        },
    },
}


def written(tmp_path, table) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(table if isinstance(table, str) else yaml.safe_dump(table))
    return str(path)


def test_rows_take_what_they_do_not_say_from_the_table(tmp_path):
    path = written(tmp_path, TABLE)
    first, second = read_recipes(path).values()
    assert (first.name, second.name) == (f"{path}/first", f"{path}/second")
    assert (first.about, second.about) == ("a tiny table: one", "a tiny table") and first.notes == ("small",)
    conditions = {"sampling.temperature": 1.0, "sampling.seed": None, "training.pairs.sigma": 0.7}
    assert first.conditions == conditions and first.unknown == ["sampling.seed"]
    assert second.conditions == conditions | {"sampling.temperature": 1.5}
    (expected,) = first.expected.values()
    assert (expected.low, expected.high) == pytest.approx((2.0 - 0.205, 2.0 + 0.205))  # 0.005 + a tenth of 2
    assert expected.why == "two decimals and a tenth" and second.expected["gfid"] == Expected(2.5, 4.0, 3.0)
    assert read_recipe(f"{path}/second").expected == second.expected


def changed(*path, value) -> dict:
    """The table with another value at a place; None removes it."""
    table = copy.deepcopy(TABLE)
    inside = table
    for key in path[:-1]:
        inside = inside[key]
    inside.pop(path[-1]) if value is None else inside.update({path[-1]: value})
    return table


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("- a list", "found .*expected settings"),
        ("{about", "cannot be read as YAML"),
        (changed("kind", value="guess"), "kind: found 'guess', expected one of reconstruction, generation, command"),
        (changed("kind", value=None), "kind: is missing; expected text"),
        (changed("source", value=None), "first, source: is missing"),
        (changed("rowz", value={}), "rowz: no such setting; expected one of about"),
        (changed("rows", "first", "gfid", value=1), "first, gfid: no such setting"),
        (changed("rows", "first", "expected", value=None), "first, expected: is missing"),
        (changed("rows", "first", "expected", value={"gfid": "low"}), "first, gfid: found 'low', expected a number"),
        (changed("rows", "first", "expected", value={"gfid": True}), "first, gfid: found True, expected a number"),
        (changed("rows", "first", "expected", value={"fid": 1.0}), "first, fid: the table has no tolerance for it"),
        (changed("rows", "second", "expected", "gfid", "low", value=3.5), r"second, gfid: found 3.0 in \[3.5, 4.0\]"),
        (changed("rows", "second", "expected", "gfid", "high", value=float("inf")), "expected a finite interval"),
        (changed("rows", "second", "expected", "gfid", "low", value=None), "second, gfid, low: is missing; expected a"),
        (changed("rows", "a/b", value={"expected": {"gfid": 1.0}}), "a stroke in the name 'a/b'"),
        (changed("tolerance", "gfid", "why", value=None), "tolerance, gfid, why: is missing; expected text"),
        (changed("tolerance", "gfid", "relative", value=-1.0), "tolerance, gfid: found 0.005 and -1.0"),
        (changed("expected", value={"gfid": 1.0}), "expected figures stand in the rows of a table"),
        (changed("preset", value="rar-xxl"), "no preset 'rar-xxl'; there are: digits"),
        (changed("command", value="make x"), "names a `command` if and only if its kind is command"),
        (
            changed("conditions", "sampling", "guidence", value=1),
            "sampling.guidence: no such field; expected some of",
        ),
        (changed("conditions", "sampler", value={"x": 1}), "sampler.x: no such field; expected some of tokenizer, gen"),
        (changed("conditions", "training", "pairs.sigma", value=1.5), r"pairs.sigma: found 1.5, expected .*\[0, 1\]"),
        (
            changed("conditions", "training", "pairs.sigm", value=1),
            "pairs.sigm: no such field; expected some of se",
        ),
        (changed("conditions", "sampling", "seed", value=True), "sampling.seed: found True, expected a number, a text"),
    ],
)
def test_a_damaged_recipe_is_one_message(tmp_path, table, said):
    path = written(tmp_path, table)
    with pytest.raises(UserError, match=said) as caught:
        read_recipes(path)
    assert "\n" not in str(caught.value) and "mine.yaml" in str(caught.value)


def test_a_recipe_that_is_not_there_is_named_with_those_that_are(tmp_path):
    path = written(tmp_path, TABLE)
    for name, said in (
        ("rarr", "there is no recipe 'rarr'; shipped tables are ablation, .*rar, "),
        ("rar/rar-xl", "rar has no recipe 'rar-xl'; it has rar/rar-b"),
        (path, "has 2 recipes: name one of them, as .*first, .*second"),
        (f"{path}/third", "has no recipe 'third'"),
    ):
        with pytest.raises(UserError, match=said):
            read_recipe(name)


CONDITIONS = {"sampling.temperature": 1.0, "sampling.guidance_power": "none", "sampling.seed": None}
MINE = Recipe(
    name="mine",
    about="",
    source="",
    kind="generation",
    expected={"gfid": Expected(1.9, 2.1, 2.0), "recall": Expected(0.5, 0.7)},
    conditions=CONDITIONS | {"samples.count": 50_000, "perturbation.deltas": [10, 15], "reference.file": "a.npz"},
)


def test_fields_differ_only_where_both_sides_know_them():
    found = {"sampling": {"temperature": 1, "guidance_power": 1.0, "seed": 3}, "perturbation": {"deltas": (10, 15)}}
    comparison = compare(MINE, {"gfid": 2.1, "fid": 9.0}, found | {"reference": {"file": None}})
    assert comparison.differences == [("sampling.guidance_power", "none", 1.0)]
    assert comparison.unrecorded == ["samples.count", "reference.file"]
    assert [judged.is_inside for judged in comparison.figures] == [True, None] and comparison.is_inside


@pytest.mark.parametrize(
    ("gfid", "inside"), [(1.9, True), (2.1, True), (1.8999, False), (2.1001, False), (float("nan"), False)]
)
def test_both_ends_of_an_interval_are_inside(gfid, inside):
    assert compare(MINE, {"gfid": gfid}, {}).is_inside is inside


def test_figures_that_are_not_the_recipes_are_refused():
    with pytest.raises(UserError, match="mine expects gfid, recall; measured are only fd, kid"):
        compare(MINE, {"fd": 2.0, "kid": 1.0}, {})


def test_an_expected_figure_in_words():
    written = [in_words(Expected(1.788, 1.872, 1.83)), in_words(Expected(2.5, 4, 3.0)), in_words(Expected(0.5, 0.9))]
    assert written == ["1.83 +- 0.042", "3 (2.5 to 4)", "0.5 to 0.9"]


@pytest.mark.parametrize(
    ("record", "figures"),
    [
        ({"metrics": {"fid": 2.0, "sfid": 3.0}}, {"gfid": 2.0, "sfid": 3.0}),
        ({"metrics": {"fd": 2.0, "kid": 0.1}}, {"gfd": 2.0, "kid": 0.1}),
        ({"tokenizers": [{"name": "a", "rfid": 1.0, "is_measured": True}]}, {"rfid": 1.0}),
        ({"decoders": [{"name": "a", "figures": {"gfid": 1.5}}]}, {"gfid": 1.5}),
        ({"distance": "FD", "generator": {"gfd": 4.0}, "notes": []}, {"generator.gfd": 4.0}),
        (
            {"mmd": [{"alpha": 0.5, "delta": 9, "value": 0.2}, {"alpha": 0.7, "delta": 3, "value": 0.1}]},
            {"mmd_lowest_alpha": 0.7, "mmd_lowest_delta": 3},
        ),
    ],
)
def test_figures_of_every_command_are_read(tmp_path, record, figures):
    path = tmp_path / "metrics.json"
    conditions = {"samples": {"count": 6, "per_class": None}}
    path.write_text(json.dumps(record | {"conditions": conditions}))
    found = read_found(path)
    assert {name: found.figures[name] for name in figures} == figures
    assert found.conditions == {"samples.count": 6}
    assert read_found(tmp_path).figures == found.figures  # the folder


@pytest.mark.parametrize(
    ("record", "entry", "said"),
    [
        ([1], None, "expected one JSON object"),
        ({"title": "x"}, None, "holds no figures"),
        ({"tokenizers": [{"name": "a"}, {"name": "b"}]}, None, "figures of a, b: choose one with --entry"),
        ({"tokenizers": [{"name": "a", "rfid": 1.0}]}, "c", "figures of a and no 'c': choose one with --entry"),
        ({"metrics": {"fid": 1.0}, "conditions": 3}, None, "conditions: found 3"),
    ],
)
def test_records_that_cannot_be_compared_are_one_message(tmp_path, record, entry, said):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=said) as caught:
        read_found(path, entry)
    assert str(path) in str(caught.value)
