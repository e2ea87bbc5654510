"""The backends that this machine can run, by name; what it cannot is skipped with the reason."""

import pytest
import torch

from robustok.ops import backend

ON_CPU = ["reference", "torch", "cpp"]


@pytest.fixture(params=ON_CPU, scope="session")
def name(request) -> str:
    reason = backend.reasons(torch.device("cpu"))[request.param]
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param
