"""The Triton kernels compile to machine code for the GPUs supported, which needs no GPU."""

from pathlib import Path
from typing import NamedTuple

import pytest

from ..scripts import printed_json
from .kernel_table import KERNELS, LAUNCHED, VARIANTS

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict:
    return printed_json(Path(__file__).with_name("compile_triton.py"), tmp_path_factory)


@pytest.mark.parametrize(("sm", "multiple"), VARIANTS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_compiles(compiled, kernel, sm, multiple):
    report = compiled[f"{kernel} sm_{sm} {multiple}"]
    assert report["bytes"] > 0
    assert report["shared"] <= 99 << 10  # what a block may have on every GPU since sm_80
    assert not report["fused_float64"]  # the definition of distance has one rounding an operation
    if kernel.startswith(("nearest", "select", "candidates", "linear")):
        assert report["tensor_cores"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_compiles_where_a_number_is_one_or_beyond_32_bits(compiled, kernel):
    assert compiled[f"{kernel}, numbers"] == []


class Bounds(NamedTuple):
    """What a kernel may cost at the published shapes, on sm_90. Two versions of the compiler, 3.6 and 3.8, stay within
    it; more is a kernel that got slower."""

    registers: int  # a thread
    shared: int  # bytes a block
    barriers: int  # in any innermost loop
    length: int  # instructions of the longest innermost loop
    taken: int = 0  # scores, keys, or weights that a block takes in a turn of its main loop, ...
    each: float = 0  # ... and instructions of its threads for one


BOUNDS = {
    "normalize rows": Bounds(registers=160, shared=2048, barriers=8, length=980),
    "nearest": Bounds(registers=128, shared=40960, barriers=2, length=360, taken=128 * 64, each=5.8),
    "settle few": Bounds(registers=104, shared=2048, barriers=0, length=140),
    "select top": Bounds(registers=240, shared=73728, barriers=7, length=600, taken=32 * 256, each=19),
    "select top, high ranks": Bounds(registers=255, shared=73728, barriers=7, length=615, taken=16 * 512, each=19),
    "settle": Bounds(registers=168, shared=2048, barriers=0, length=260),
    "candidates": Bounds(registers=224, shared=18432, barriers=7, length=395, taken=16 * 64, each=48),
    "candidates, many": Bounds(registers=224, shared=36864, barriers=7, length=395, taken=16 * 128, each=48),
    "order": Bounds(registers=40, shared=0, barriers=0, length=125),
    "order, many": Bounds(registers=40, shared=0, barriers=0, length=125),
    "finish": Bounds(registers=128, shared=1024, barriers=0, length=440),
    "attention, new place": Bounds(registers=128, shared=1024, barriers=0, length=262, taken=32, each=520),
    "attention, new place of 48": Bounds(registers=96, shared=1024, barriers=0, length=206, taken=32, each=410),
    "linear, normed": Bounds(registers=168, shared=65536, barriers=2, length=540, taken=32 * 512, each=4.3),
    "linear, two weights": Bounds(registers=255, shared=49152, barriers=4, length=505, taken=2 * 32 * 512, each=4),
    "linear, residual": Bounds(registers=96, shared=20480, barriers=0, length=0),
    "guided sample": Bounds(registers=128, shared=8192, barriers=0, length=0),
    "inception input": Bounds(registers=64, shared=0, barriers=0, length=0),
    "max pool": Bounds(registers=64, shared=0, barriers=0, length=0),  # 255 where values are not read eight at a time
    "split, ReLU": Bounds(registers=96, shared=0, barriers=0, length=0),
}


@pytest.mark.parametrize("kernel", LAUNCHED)
def test_machine_code_stays_as_good_as_it_is(compiled, kernel):
    found, bounds = compiled[f"{kernel}, as launched"], BOUNDS[kernel]
    assert found["spills"] == 0
    assert found["registers"] <= bounds.registers
    assert found["shared"] <= bounds.shared
    assert max((loop["barriers"] for loop in found["loops"]), default=0) <= bounds.barriers
    assert max((loop["length"] for loop in found["loops"]), default=0) <= bounds.length
    if bounds.taken:
        main = max(found["loops"], key=lambda loop: (loop["products"], loop["length"]))
        assert main["length"] * found["threads"] / bounds.taken <= bounds.each
