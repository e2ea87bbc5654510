"""Scores of the Triton kernels are within their bounds where tensor cores cut off what does not fit; a row of which
bounds say nothing is listed."""

import numpy as np
import pytest
import torch

from robustok.ops.vq.backends.triton_backend import TritonBackend

from .table import SIMILARITIES, order
from .tensor_cores import LOST, ROUNDED_DOWN, multiply, multiply_tf32_parts

if reason := TritonBackend().missing(torch.device("cpu")):
    pytest.skip(reason, allow_module_level=True)

import triton
import triton.language as tl
from robustok.kernels.scores import length_of, row_block, split_error, split_half, split_scores, tile_error, tile_scores
from triton.runtime import interpreter

from robustok.kernels import codes as kernel_codes
from robustok.kernels import rows as kernel_rows

N, K = 16, 64  # of a program


@triton.jit
def _scores_kernel(
    u,
    high,
    low,
    bias,
    limits,
    scores,
    errors,
    D,
    Dp,
    SPLIT: tl.constexpr,
    PRODUCT: tl.constexpr,
    PRODUCTS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program: scores (16, 64) of a tile and their errors (16)."""
    n, k = tl.arange(0, 16), tl.arange(0, 64)
    inside = n >= 0
    if PRODUCTS == 3:
        found = split_scores(u, high, low, bias, n, k, inside, D, Dp, SPLIT, BLOCK_D)
        squares = tl.zeros((16,), tl.float32)
        for d in range(0, Dp, BLOCK_D):
            x = row_block(u, n, d + tl.arange(0, BLOCK_D), inside, D)
            squares += tl.sum(x * x, 1)
        error = split_error(length_of(squares, D), limits, 0.0, D, SPLIT, PRODUCT)
    else:
        x, left = split_half(row_block(u, n, tl.arange(0, BLOCK_D), inside, D))
        found = tile_scores(u, x, left, high, bias, n, k, inside, D, Dp, SPLIT, WIDE, PRODUCTS == 2, BLOCK_D)
        error = tile_error(u, n, inside, limits, 0.0, D, Dp, SPLIT, PRODUCT, PRODUCTS == 2, BLOCK_D)
    tl.store(scores + 64 * n[:, None] + k[None, :], found)
    tl.store(errors + n, error)


@pytest.fixture
def cutting(monkeypatch) -> None:
    """The interpreter multiplies as tensor cores do."""

    def dot(self, a, b, total, *settings):
        product = multiply if a.data.dtype == np.float16 else multiply_tf32_parts
        return interpreter.TensorHandle(product(a.data, b.data, total.data), total.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)


def rows(kind: str, count: int, D: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count + D)
    if kind == "any":
        return torch.randn(count, D, generator=generator)
    found = torch.full((count, D), LOST if kind == "lost" else ROUNDED_DOWN)
    found[:, 0] = ROUNDED_DOWN
    return found * 2.0 ** torch.randint(-2, 3, (count, 1), generator=generator)


@pytest.mark.parametrize(("kind", "D"), [("any", 1), ("any", 20), ("rounded down", 20), ("lost", 80)])
@pytest.mark.parametrize(
    ("similarity", "products"), [("cosine", 1), ("cosine", 2), ("cosine", 3), ("l2", 3), ("dot", 3)]
)
@pytest.mark.parametrize("scales", [(1, 1), (1e-22, 1e-15), (1e-30, 1e18)])
def test_scores_are_within_their_bounds(cutting, similarity, products, D, kind, scales):
    z, codebook = rows(kind, N, D) * scales[0], rows(kind, K, D) * scales[1]
    codes = kernel_codes.prepare(codebook, similarity == "cosine", similarity == "dot")
    u, scores, errors = torch.empty(N, D), torch.empty(N, K), torch.empty(N)
    kernel_rows.normalize_rows(z[None], 0, u, similarity == "cosine")
    parts = codes.high, codes.low, codes.bias, codes.limits
    Dp, block = codes.high.shape[1], kernel_codes.block_d(D)
    _scores_kernel[(1,)](
        u, *parts, scores, errors, D, Dp, codes.split, codes.product, products, WIDE=Dp > block, BLOCK_D=block
    )
    exact = u.double() @ codes.rows.double().T
    if similarity != "dot":
        exact -= codes.rows.double().square().sum(1) / 2
    off = (scores - exact).abs().amax(1)
    assert (off <= errors).all()
    if scales == (1, 1):
        assert (errors <= 2e-3 * exact.abs().amax(1)).all()


def test_codes_that_tf32_takes_for_infinite():
    """Just below the largest float32: no score of them can be believed."""
    codebook = torch.tensor([[3.4025e38], [3.4024e38], [-3.4025e38]])
    z = torch.tensor([[[1e-10], [-1e-10]]])
    codes = kernel_codes.prepare(codebook, False, True)
    errors = torch.empty(N)
    u = torch.zeros(N, 1)
    u[:2] = z[0]
    _scores_kernel[(1,)](
        u, codes.high, None, codes.bias, codes.limits, torch.empty(N, K), errors, 1, 16, False, True, 3, False, 16
    )
    assert (errors[:2] == torch.inf).all()
    for similarity in SIMILARITIES:
        assert np.array_equal(TritonBackend().neighbors(z, codebook, 3, similarity)[0], order(z, codebook, similarity))
