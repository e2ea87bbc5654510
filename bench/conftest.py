"""The --benchmark option: with it every row is timed, checked against its goal and written to a folder; without it the
same files run once, small, as a smoke test.
"""

from pathlib import Path

import pytest

from .recording import Record


def pytest_addoption(parser):
    parser.addoption("--benchmark", action="store_true", help="time every row; write JSON and Markdown to --output")
    parser.addoption("--output", default="bench/results/latest", help="folder of the result files")


def pytest_configure(config):
    if not config.getoption("--benchmark"):
        config.option.benchmark_disable = True  # pytest-benchmark then calls what it would time once


@pytest.fixture(scope="session")
def timed(request) -> bool:
    """Whether this run measures."""
    return request.config.getoption("--benchmark")


@pytest.fixture(scope="session")
def record(request, timed):
    """Collects the rows of this run; writes them at its end where it measured."""
    rows = Record()
    yield rows
    if timed and rows.rows:
        rows.write(Path(request.config.getoption("--output")))
