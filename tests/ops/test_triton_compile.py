"""The Triton kernels compile to machine code for the GPUs supported, which needs no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .compile_triton import KERNELS

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def compiled() -> dict:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_triton.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("sm", [80, 90])
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_compiles(compiled, kernel, sm):
    report = compiled[f"{kernel} sm_{sm}"]
    assert report["bytes"] > 0
    assert report["shared"] <= 99 << 10  # what a block may have on every GPU since sm_80
    assert not report["fused_float64"]  # the definition of distance has one rounding an operation
    if kernel.startswith(("nearest", "select")):
        assert report["tensor_cores"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_compiles_where_a_number_is_one(compiled, kernel):
    assert compiled[f"{kernel}, ones"] == []
