"""The page of a study and the recipes of its rows, from runs whose figures are known."""

import pytest

from robustok.core.errors import UserError
from robustok.recipes.reading import read_recipe, read_recipes
from robustok.studies.measured import read_run
from robustok.studies.page import write_pages
from robustok.studies.recipes import compare_run, write_recipes
from robustok.studies.tables import loss_rows

from .conftest import write_run

MACHINE = {"date": "2026-01-01", "commit": "abc", "CPU": "one | two", "versions": "torch 1", "Python": "3.11"}


def test_both_pages_say_the_same(found, tmp_path):
    latents = {found.runs["none", 0]: {(0.5, 3): 0.2, (0.9, 6): 0.1}, found.runs["none", 1]: {(0.4, 6): 0.1}}
    write_pages(found, [MACHINE], latents, tmp_path / "page")
    text, html = ((tmp_path / "page" / name).read_text() for name in ("README.md", "study.html"))
    for part in (
        "pFD 1.95 -&gt; 1.05",
        "lowest at alpha 0.9, delta 6, inside",
        "alpha 0.4, delta 6, outside",
        "no difference found",
        "not at this size",
    ):
        assert part in html and part.replace("&gt;", ">") in text
    assert "one \\| two" in text and "one | two" in html
    pictures = sorted(path.name for path in (tmp_path / "page").glob("*.png"))
    assert pictures == [f"readme-{number}.png" for number in (1, 2, 3, 4)] and all(name in text for name in pictures)


def test_shares_of_the_loss(found):
    """0.3, 0.1 x 1, 0.1 x 2 x 0.5, 0.05, 0.25 x 0.04 and 0.1 x 1, of their sum 0.66."""
    rows, _, _ = loss_rows(found.runs["annealed-half", 0])
    shares = {name: float(share.rstrip("%")) / 100 for name, *_, share in rows}
    exact = {"reconstruction": 0.3, "perceptual": 0.1, "adversarial": 0.1, "vq": 0.05, "commit": 0.01, "semantic": 0.1}
    assert shares == pytest.approx({name: term / 0.66 for name, term in exact.items()}, abs=6e-4)


def test_a_run_again_is_held_against_its_row(found, tmp_path):
    """A run with figures as before lies inside; another does not, and the setting that differs is named."""
    table = tmp_path / "recipes.yaml"
    write_recipes(found, table)
    assert list(read_recipes(table)) == [f"{table}/{row}" for row in ("none", "annealed-half", "sigma-0.7")]
    row = found.study.rows["none"]
    write_run(tmp_path / "again", "none-7", pfd=1.98, gfd=3.05, post=2.7)
    (tmp_path / "again/none-7/config.yaml").write_text("perturbation: {beta: 0.0}\n")
    recipe = read_recipe(f"{table}/none")
    comparison = compare_run(read_run(row, 7, tmp_path / "again"), recipe)
    assert comparison.is_inside and not comparison.differences
    write_run(tmp_path / "again", "none-8", pfd=1.0, gfd=3.05, post=2.7)
    comparison = compare_run(read_run(row, 8, tmp_path / "again"), recipe)
    outside = [figure.name for figure in comparison.figures if not figure.is_inside]
    assert outside == ["tokenizer.psnr", "tokenizer.pfd"]
    assert comparison.differences == [("training.perturbation.beta", 0.0, 0.1)]


def test_a_study_with_other_rows_has_a_page(found, tmp_path):
    """No claim looks at its rows by name, and none of them is the recipe."""
    del found.runs["annealed-half", 0], found.runs["annealed-half", 1], found.runs["sigma-0.7", 0]
    write_pages(found, [MACHINE], {}, tmp_path / "page")
    text = (tmp_path / "page/README.md").read_text()
    assert "Main training of none-0" in text and "pFD 1.95 ->" not in text


def test_a_run_that_is_not_finished(found, tmp_path):
    with pytest.raises(UserError, match="none-9"):
        read_run(found.study.rows["none"], 9, tmp_path)
