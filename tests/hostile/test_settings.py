"""Bad files of settings: YAML of runs and of benchmarks."""

from pathlib import Path

import pytest

from .table import Case, check, parameters


def text(name: str, content: str):
    """A maker of one file."""
    return lambda folder: (folder / name).write_text(content)


CONFIG = "train --config bad.yaml --runs runs"
CASES = [
    Case("no mapping", text("bad.yaml", "just a sentence"), CONFIG, ("bad.yaml", "expected settings")),
    Case("a tab in YAML", text("bad.yaml", "seed:\n\t- 1\n"), CONFIG, ("bad.yaml cannot be read as YAML",)),
]


@pytest.mark.parametrize("case", parameters(CASES))
def test_settings(case: Case, tmp_path: Path, good: Path, server):
    check(case, tmp_path, good, server)
