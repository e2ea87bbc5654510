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
    if kernel_device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter takes no products in bfloat16")
    if kernel_device == "cuda" and dtype == torch.float32:
        pytest.skip("launched in half precision alone; in float32 a tile is too large for shared memory")
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
    new = partial(drawn, torch.float16, kernel_device)
    linear = StepLinear(new(24, 48) / 7, None, 5, norm="layer", epsilon=1e-6)
    x, given = new(5, 48), {"factor": new(5, 48), "shift": new(5, 48), "residual": new(5, 24)}
    expected = linear(x, **given)
    monkeypatch.setattr(step_linear, "fuses", lambda x: True)
    torch.testing.assert_close(linear(x, **given), expected, rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize("is_fused", [False, True])
def test_a_norm_without_its_factor_is_refused(is_fused):
    x, weight = torch.zeros(5, 48), torch.zeros(24, 48)
    cases = [(StepLinear(weight, None, 5, norm="rms"), {}, "none with norm rms")]
    cases += [(StepLinear(weight, None, 5), {"factor": x[0]}, "one with norm None")]
    for linear, given, found in cases:
        with pytest.raises(TypeError, match=f"factor: found {found}"):
            (linear.fused if is_fused else linear.apart)(x, **given)


def test_tensors_that_the_kernel_cannot_read_are_refused(kernel_device, fused):
    x, weight = torch.zeros(48, 5, device=kernel_device).T, torch.zeros(24, 48, device=kernel_device)
    with pytest.raises(ValueError, match="found others in x"):
        StepLinear(weight, None, 5)(x)
    with pytest.raises(ValueError, match="found others in weight"):
        StepLinear(weight[:, ::2], None, 5)(x.T[:5, :5].contiguous())


@pytest.mark.parametrize(("family", "table_bytes"), [("rar", None), ("rar", 1), ("llamagen", None)])
def test_a_generator_of_fused_layers(family, table_bytes, make_model, make_llamagen, kernel_device, monkeypatch):
    """The same logits and tokens, step by step and in runs of known tokens; and it did take the kernel.

    Modulation comes from a table of all places, and of a few. On a GPU in bfloat16, as it is launched there.
    """
    from robustok.kernels import linear as kernels

    torch.manual_seed(0)
    model, classes = (make_model(num_tokens=4) if family == "rar" else make_llamagen(num_tokens=4)), torch.arange(3)
    model.to(kernel_device, torch.float32 if kernel_device == "cpu" else torch.bfloat16)
    if table_bytes:
        monkeypatch.setattr(rar_modulation, "TABLE_BYTES", dict.fromkeys(("cpu", "cuda"), table_bytes))
    tokens, whole, calls = torch.randint(0, 40, (3, 4)), kernels.linear, []
    keep = {"keep_tokens": tokens, "keep_ratio": 0.5}
    monkeypatch.setattr(kernels, "linear", lambda *a, **k: calls.append(1) or whole(*a, **k))

    def results(is_fused: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        for module in (step_linear, rar_decoding):
            monkeypatch.setattr(module, "fuses", lambda x: is_fused)
        logits = model.guided_logits(tokens, classes, **GUIDED)
        return logits, [model.generate(classes, seed=1, **more, **GUIDED) for more in ({}, keep)]

    expected, expected_tokens = results(is_fused=False)
    assert not calls
    found, found_tokens = results(is_fused=True)
    linears, blocks, places = 4, 2, 4 + (family == "rar")
    assert len(calls) >= 2 * linears * blocks * places  # of the logits, and of the tokens
    if kernel_device == "cpu":
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        assert all(map(torch.equal, found_tokens, expected_tokens))
    else:
        apart = (expected.softmax(-1) * (expected.log_softmax(-1) - found.log_softmax(-1))).sum(-1)
        assert apart.mean() < 5e-3
