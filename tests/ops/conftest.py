"""The backends that this machine can run, by name; what it cannot is skipped with the reason."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported: then they run on the CPU

from robustok.ops.vq.backends import registry
from robustok.ops.vq.backends.cpp_backend import _C

ON_CPU = ("reference", "torch", "cpp-avx512", "cpp-avx2", "cpp-generic", "triton")


@pytest.fixture(params=ON_CPU, scope="session")
def name(request):
    """Name of a backend; the compiled one comes once for each instruction set that it has code for."""
    backend_name, _, instructions = request.param.partition("-")
    reason = registry.reasons(torch.device("cpu"))[backend_name]
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    if not instructions:
        yield backend_name
        return
    available = _C.instruction_sets()
    if instructions not in available:
        pytest.skip(f"{request.param}: the instruction sets of this processor are {', '.join(available)}")
    _C.use_instruction_set(instructions)
    yield backend_name
    _C.use_instruction_set(available[0])
