"""The --benchmark option: with it every row is timed, compared with its goal and written to a folder; without it the
same files run once, small, to see that they work.
"""

from pathlib import Path

import pytest
import torch

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


@pytest.fixture(scope="module")
def record(request, timed):
    """Collects the rows of a file, and writes those of bench_NAME.py to NAME.json and NAME.md if this run measures."""
    rows = Record()
    yield rows
    if timed and rows.rows:
        name = request.module.__name__.rpartition("bench_")[2]
        rows.write(Path(request.config.getoption("--output")), name)


@pytest.fixture
def needs_gpu(timed, record):
    """needs_gpu(goal): skips the test where there is no GPU, and records that its goal was not measured."""

    def check(goal: str) -> None:
        if torch.cuda.is_available():
            return
        if timed:
            record.add_not_measured(goal, "needs a GPU", "this machine has none")
        pytest.skip("needs a CUDA device")

    return check
