"""The backends that this machine can run, by name; what it cannot is skipped with the reason."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported: then they run on the CPU

from robustok.ops import backend

ON_CPU = ["reference", "torch", "cpp", "triton"]


@pytest.fixture(params=ON_CPU, scope="session")
def name(request) -> str:
    reason = backend.reasons(torch.device("cpu"))[request.param]
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param
