"""What a script prints as its last line, as JSON: run once, whatever the number of processes that test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustok.core.locks import hold


def printed_json(script: Path, factory: pytest.TempPathFactory, *arguments: str, **environment: str) -> dict:
    """Runs a script with Triton's interpreter off, in a process of its own: this one decided for it at the import.

    Processes of pytest-xdist share what the first of them found.
    """
    is_worker = "PYTEST_XDIST_WORKER" in os.environ  # all workers' folders are in one
    folder = factory.getbasetemp().parent if is_worker else factory.mktemp(script.stem)
    found = folder / f"{script.stem}.json"
    with hold(folder / f"{script.stem}.lock"):
        if not found.exists():
            variables = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | environment
            command = [sys.executable, script, *arguments]
            done = subprocess.run(command, env=variables, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-5000:]
            found.write_text(done.stdout.splitlines()[-1])
    return json.loads(found.read_text())
