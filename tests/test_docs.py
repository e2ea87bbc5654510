"""The documentation site: it names every setting, every page and only what there is."""

from __future__ import annotations

import importlib
import runpy
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import pytest
import yaml

from robustok.config import RunConfig
from robustok.core.settings import setting

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def configuration():
    """The script that makes the configuration reference."""
    return runpy.run_path(str(ROOT / "docs" / "configuration.py"))


def settings(config, prefix=""):
    """The dotted name and the default of every setting of a dataclass, of those inside it too."""
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            yield from settings(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", value


def test_every_setting_stands_in_the_reference_with_its_default(configuration):
    rows = [line.split(" | ") for line in configuration["page"]() for line in line.splitlines() if line[:3] == "| `"]
    found = {row[0].strip("| `"): row[2].strip("`") for row in rows}
    assert len(found) == len(rows)
    assert found == {name: repr(value).replace("|", "\\|") for name, value in settings(RunConfig())}


@dataclass(frozen=True)
class FirstSettings:
    """Settings."""

    lr: float = 0.5  # of the first
    epochs: int = 1


@dataclass(frozen=True)
class SecondSettings(FirstSettings):
    """Its own comment comes before that of the class above."""

    lr: float = 0.5  # of the second
    # Above it,
    # in two lines.
    kind: float | None = setting(None, "[0, 1)")  # and beside it


def test_what_may_be_and_what_it_means_stand_at_the_fields(configuration):
    *_, lr, epochs, kind, end = configuration["section"]("Second", SecondSettings, "second.")
    assert lr == "| `second.lr` | a number | `0.5` | of the second |"
    assert epochs == "| `second.epochs` | a whole number | `1` |  |"
    assert kind == "| `second.kind` | a number in [0, 1) or null | `None` | Above it, in two lines. and beside it |"
    assert end == ""


def pages(nav):
    """The files that mkdocs.yml lists."""
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else pages(value)


def test_every_page_is_in_the_navigation():
    listed = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    docs = ROOT / "docs"
    written = {str(path.relative_to(docs)) for path in docs.rglob("*.md")} | {"configuration.md"}
    assert set(listed) == written and len(listed) == len(written)


def test_the_reference_of_the_api_has_every_public_name():
    import robustok

    named = [line[4:] for line in (ROOT / "docs" / "api.md").read_text().splitlines() if line.startswith("::: ")]
    objects = []
    for path in named:
        module, _, name = path.rpartition(".")
        try:
            objects.append(importlib.import_module(path))
        except ModuleNotFoundError:
            objects.append(getattr(importlib.import_module(module), name))
    missing = [name for name in robustok.__all__ if not any(getattr(robustok, name) is thing for thing in objects)]
    assert not missing
