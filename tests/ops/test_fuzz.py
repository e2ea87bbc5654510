"""Random shapes, dtypes, layouts and special values: every backend against the reference, index by index."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustok import ops

from .conftest import ON_CPU
from .table import DTYPES, SIMILARITIES

SPECIAL = [0.0, -0.0, 1e-40, 1e-20, 1e4, float("nan"), float("inf")]


@st.composite
def cases(draw, most_tokens):
    B, L = draw(st.integers(0, 4)), draw(st.integers(1, most_tokens))
    K, D = draw(st.integers(1, 300)), draw(st.integers(1, 70))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    codebook = torch.randn(K, D, generator=generator)
    codebook[torch.randint(0, K, (K // 2,), generator=generator)] = codebook[0].clone()  # duplicates
    z = torch.randn(B, D, L, generator=generator).transpose(1, 2) if draw(st.booleans()) else torch.randn(B, L, D)
    if B and draw(st.booleans()):
        z[draw(st.integers(0, B - 1)), draw(st.integers(0, L - 1)), draw(st.integers(0, D - 1))] = draw(
            st.sampled_from(SPECIAL)
        )
    if B and draw(st.booleans()):
        z[0, 0] = codebook[-1]  # a latent that is a code
    arguments = {
        "alpha": draw(st.sampled_from([0.0, 1e-6, 0.5, 1.0])),
        "beta": draw(st.sampled_from([0.0, 0.3, 1.0])),
        "delta": draw(st.integers(1, K)),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "neighbors": draw(st.sampled_from(["latent", "code"])),
        "similarity": draw(st.sampled_from(SIMILARITIES)),
    }
    return z.to(draw(st.sampled_from(DTYPES))), codebook.to(draw(st.sampled_from(DTYPES))), arguments


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=cases(most_tokens=40))
@pytest.mark.parametrize("name", [name for name in ON_CPU if name.startswith(("torch", "cpp"))], indirect=True)
def test_backends_return_what_the_reference_returns(name, case):
    compare(name, *case)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(case=cases(most_tokens=5))  # the interpreter takes milliseconds a token
@pytest.mark.parametrize("name", ["triton"], indirect=True)
def test_triton_returns_what_the_reference_returns(name, case):
    compare(name, *case)


def compare(name, z, codebook, arguments):
    ours = ops.vq_quantize(z, codebook, backend=name, **arguments)
    reference = ops.vq_quantize(z, codebook, backend="reference", **arguments)
    for key, value in reference._asdict().items():
        tolerance = {} if value.is_floating_point() else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(
            getattr(ours, key), value, equal_nan=True, **tolerance, msg=lambda m, k=key: f"{k}: {m}"
        )
    given = {"delta": arguments["delta"], "similarity": arguments["similarity"]}
    found, expected = (ops.vq_neighbors(z, codebook, backend=backend, **given) for backend in (name, "reference"))
    assert torch.equal(found, expected)
