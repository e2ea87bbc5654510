"""The Triton kernels compile to machine code for the GPUs supported, which needs no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .compile_triton import KERNELS, LAUNCHED

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


# What a block and the innermost loop may cost at the published shapes, on sm_90: registers a thread, instructions of
# the longest loop, and barriers in any loop. Compilers differ by a few instructions; more is a kernel that got slower.
BOUNDS = {
    "nearest": {"registers": 128, "length": 190, "barriers": 2},
    "settle few": {"registers": 88, "spills": 8, "length": 110, "barriers": 0},  # 8 bytes, outside of its loop
    "select top": {"registers": 192, "length": 375, "barriers": 4},
    "attention, new place": {"registers": 128, "length": 265, "barriers": 0},
    "attention, new place of 48": {"registers": 96, "length": 210, "barriers": 0},
}


@pytest.mark.parametrize("kernel", LAUNCHED)
def test_machine_code_stays_as_good_as_it_is(compiled, kernel):
    found, bounds = compiled[f"{kernel}, as launched"], BOUNDS[kernel]
    assert found["spills"] <= bounds.get("spills", 0)
    assert found["registers"] <= bounds["registers"]
    assert max(loop["length"] for loop in found["loops"]) <= bounds["length"]
    assert max(loop["barriers"] for loop in found["loops"]) <= bounds["barriers"]
