"""The --benchmark option: with it every row is timed, compared with its goal and written to a folder; without it the
same files run once, small and on a CPU, to see that they work.
"""

from pathlib import Path

import pytest
import torch

from . import recording
from .recording import Record


def pytest_addoption(parser):
    parser.addoption("--benchmark", action="store_true", help="time every row; write JSON and Markdown to --output")
    parser.addoption("--output", default="bench/results/latest", help="folder of the result files")
    parser.addoption("--slice", default="", help="name of this part of a report (report.py), for its rows")


def pytest_configure(config):
    recording.timed = config.getoption("--benchmark")
    if not recording.timed:
        config.option.benchmark_disable = True  # pytest-benchmark then calls what it would time once


@pytest.fixture(scope="session")
def timed(request) -> bool:
    """Whether this run measures."""
    return request.config.getoption("--benchmark")


@pytest.fixture(scope="module")
def record(request, timed):
    """Collects the rows of bench_NAME.py, and writes each to the folder --output if this run measures."""
    name, option = request.module.__name__.rpartition("bench_")[2], request.config.getoption
    part = f"{option('--slice')}: {name}" if option("--slice") else name
    return Record((Path(option("--output")), part) if timed else None)


@pytest.fixture
def gpu(request, timed, record, monkeypatch):
    """gpu(goal): the device of a row that is for a GPU: "cuda".

    Where nothing is timed it is the CPU, and torch.compile leaves everything as it is. Where there is no GPU the goal
    is recorded as not measured and the test skipped.
    """

    def device(goal: str) -> str:
        if not timed:
            monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
            return "cpu"
        if torch.cuda.is_available():
            return "cuda"
        record.add_not_measured(goal, f"{request.node.name} needs a GPU", "this machine has none")
        pytest.skip("needs a CUDA device")

    return device


@pytest.fixture(autouse=True)
def own_tf32():
    """Every row begins with TF32 as torch has it, off for products and on for cuDNN, whatever the one before it set."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def few_rounds(monkeypatch):
    """Calls that last seconds are repeated less."""
    monkeypatch.setattr(recording, "ROUNDS", {"cpu": 5, "cuda": 5})
    monkeypatch.setattr(recording, "WARM_UP_CALLS", 1)
