"""Linear layers of a decoding step as one kernel, against float64: on a GPU, and where there is none in the interpreter
(which has no products in bfloat16)."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from robustok.models.generators import rar_decoding, rar_modulation
from robustok.ops.decoding import StepLinear, step_linear

pytest.importorskip("triton")
# (rows, in, out): more rows than a tile has and fewer, widths that are multiples of all tiles, of some, and of none
SHAPES = [(1, 768, 33), (3, 1024, 40), (8, 512, 64), (17, 100, 33), (65, 20, 8)]
GUIDED = {"guidance_scale": 2.5, "guidance_power": 1.5, "temperature": 0.9}


@pytest.fixture
def fused(monkeypatch):
    """Every linear layer is one kernel, also on a CPU, and in float32."""
    monkeypatch.setattr(step_linear, "fuses", lambda x: True)


def drawn(dtype, device, *sizes):
    return torch.randn(*sizes).to(dtype).to(device)


def close_to(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Float32 but for the order of its sums; in half precision normed rows and the result are rounded once each."""
    bits = {torch.float32: 2.0**-18, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}[found.dtype]
    torch.testing.assert_close(found.double(), expected, rtol=bits, atol=bits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width", "out"), SHAPES)
@pytest.mark.parametrize("norm", ["layer", "rms", None])
def test_every_part(norm, rows, width, out, dtype, kernel_device, fused):
    """Layer norm with modulation of a table, then GELU; RMS norm, then SwiGLU; no norm, then a gated residual.

    Rows lie further apart than they are wide, and are far from 0.
    """
    if dtype == torch.bfloat16 and kernel_device == "cpu":
        pytest.skip("the interpreter takes no products in bfloat16")
    torch.manual_seed(rows)
    new = partial(drawn, dtype, kernel_device)
    x, residual, table = new(rows, 2 * width)[:, width:].add_(2), new(rows, 2 * out)[:, :out], new(7, 2 * width + out)
    weight, second, bias = new(out, width) / width**0.5, new(out, width) / width**0.5, new(out)
    factor, shift, gate = table.split([width, width, out], 1)
    picked = torch.randint(0, 7, (rows,), device=kernel_device)
    h, w, v, b, f, s, g, r = (t.double() for t in (x, weight, second, bias, factor, shift, gate, residual))
    if norm == "layer":
        linear = StepLinear(weight, bias, rows, norm=norm, epsilon=1e-6, gelu=True)
        found = linear(x, factor=factor, shift=shift, picked=picked)
        h = F.layer_norm(h, (width,), eps=1e-6) * f[picked] + s[picked]
        expected = F.gelu(F.linear(h, w, b))
    elif norm == "rms":
        found = StepLinear(weight, None, rows, second=second, norm=norm, epsilon=1e-5)(x, factor=factor[3])
        h = h / (h.square().mean(1, keepdim=True) + 1e-5).sqrt() * f[3]
        expected = (h @ w.T) / (1 + (-h @ w.T).exp()) * (h @ v.T)
    else:
        found = StepLinear(weight, bias, rows)(x, residual=residual, gate=gate, picked=picked)
        expected = r + g[picked] * F.linear(h, w, b)
    assert found.dtype == dtype and found.shape == (rows, out)
    close_to(found, expected)


def test_one_operation_after_the_other_gives_the_same(kernel_device, monkeypatch):
    """Residual without gate, modulation a row each: what the kernel and its definition take alike."""
    torch.manual_seed(0)
    new = partial(drawn, torch.float32, kernel_device)
    linear = StepLinear(new(24, 48), None, 5, norm="layer", epsilon=1e-6)
    x, given = new(5, 48), {"factor": new(5, 48), "shift": new(5, 48), "residual": new(5, 24)}
    expected = linear(x, **given)
    monkeypatch.setattr(step_linear, "fuses", lambda x: True)
    torch.testing.assert_close(linear(x, **given), expected, rtol=1e-5, atol=1e-5)


def test_tensors_that_the_kernel_cannot_read_are_refused(kernel_device, fused):
    x, weight = torch.zeros(48, 5, device=kernel_device).T, torch.zeros(24, 48, device=kernel_device)
    with pytest.raises(ValueError, match="last dimension is contiguous"):
        StepLinear(weight, None, 5)(x)


@pytest.mark.parametrize("table_bytes", [None, 1])  # all places, and the fewest at a time
@pytest.mark.parametrize("family", ["rar", "llamagen"])
def test_a_generator_of_fused_layers(family, table_bytes, make_model, make_llamagen, kernel_device, monkeypatch):
    """The same logits and tokens, step by step and in runs of known tokens; and it did take the kernel."""
    from robustok.kernels import linear as kernels

    model, classes = (make_model(num_tokens=4) if family == "rar" else make_llamagen(num_tokens=4)), torch.arange(3)
    model.to(kernel_device)
    if table_bytes:
        monkeypatch.setattr(rar_modulation, "TABLE_BYTES", dict.fromkeys(("cpu", "cuda"), table_bytes))
    tokens, calls = torch.randint(0, 40, (3, 4)), []
    keep = {"keep_tokens": tokens, "keep_ratio": 0.5}

    def results():
        drawn = model.generate(classes, seed=1, **GUIDED), model.generate(classes, seed=1, **keep, **GUIDED)
        return model.guided_logits(tokens, classes, **GUIDED), drawn

    expected, expected_tokens = results()
    for module in (step_linear, rar_decoding):
        monkeypatch.setattr(module, "fuses", lambda x: True)
    whole = kernels.linear
    monkeypatch.setattr(kernels, "linear", lambda *a, **k: calls.append(1) or whole(*a, **k))
    found, found_tokens = results()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert all(map(torch.equal, found_tokens, expected_tokens))
    prefix = 2 if family == "rar" else 1
    assert len(calls) >= 2 * 4 * 2 * (prefix + 3)  # generations and logits, linear layers, blocks, places
