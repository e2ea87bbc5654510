"""docs/support.md says what is seen here, at a tiny size. `python tests/test_support.py` writes it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from robustok.core.device import OTHER_NAMES, check_device_name
from robustok.core.errors import UserError
from robustok.data.decode import HEIC_PACKAGE, decode
from robustok.models.registry import families
from robustok.ops import perturb, vq_nearest, vq_neighbors, vq_perturb, vq_quantize

PAGE = Path(__file__).parents[1] / "docs" / "support.md"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
REFUSALS = ("found dtype torch.float64", "found torch.float64", "second derivatives are not defined")
DRAW = {"alpha": 1.0, "delta": 3, "seed": 1}
INDICES = {
    "vq_nearest": vq_nearest,
    "vq_neighbors": lambda z, codebook: vq_neighbors(z, codebook, 3),
}
LATENTS = {
    "vq_perturb": lambda z, codebook: vq_perturb(z, codebook, beta=1.0, **DRAW).z_q,
    "vq_quantize": lambda z, codebook: vq_quantize(z, codebook, **DRAW).z_q,
    "perturb (gaussian)": lambda z, codebook: perturb(z, kind="gaussian", alpha=1.0, strength=0.5, seed=1).z_q,
}
OPERATIONS = INDICES | LATENTS


class Exported(torch.nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def forward(self, z, codebook):
        return self.operation(z, codebook)


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in ((2, 3, 4), (8, 4))]


def gradient(operation, z, codebook, **keep):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(operation(z, codebook).square().sum(), z, **keep)[0]


def double_backward(operation, z, codebook):
    z = z.clone().requires_grad_()
    (first,) = torch.autograd.grad(operation(z, codebook).square().sum(), z, create_graph=True)
    torch.autograd.grad(first.sum(), z)


def func_grad(operation, z, codebook):
    found = torch.func.grad(lambda x: operation(x, codebook).square().sum())(z)
    torch.testing.assert_close(found, gradient(operation, z, codebook), rtol=1e-4, atol=1e-5)


def func_vmap(operation, z, codebook):
    found = torch.func.vmap(lambda x: operation(x, codebook))(torch.stack([z, z]))
    torch.testing.assert_close(found[1], operation(z, codebook), rtol=1e-4, atol=1e-5)


def func_jvp(operation, z, codebook):
    _, tangent = torch.func.jvp(lambda x: operation(x, codebook).square().sum(), (z,), (torch.ones_like(z),))
    torch.testing.assert_close(tangent, gradient(operation, z, codebook).sum(), rtol=1e-4, atol=1e-4)


def forward_mode(operation, z, codebook):
    ad = torch.autograd.forward_ad
    with ad.dual_level():
        dual = ad.make_dual(z, torch.ones_like(z))
        tangent = ad.unpack_dual(operation(dual, codebook).square().sum()).tangent
    torch.testing.assert_close(tangent, gradient(operation, z, codebook).sum(), rtol=1e-4, atol=1e-4)


def compiled(operation, z, codebook):
    torch.compile(operation, backend="eager", fullgraph=True)(z, codebook)


def exported(operation, z, codebook):
    torch.export.export(Exported(operation), (z, codebook))


def autocast(operation, z, codebook):
    with torch.autocast("cpu", torch.bfloat16):
        operation(z, codebook)


DERIVATIVES = {
    "backward": gradient,
    "double backward": double_backward,
    "torch.func.grad": func_grad,
    "torch.func.jvp": func_jvp,
    "forward mode": forward_mode,
}
OTHERS = {"torch.func.vmap": func_vmap, "torch.compile": compiled, "torch.export": exported, "autocast": autocast}


def tried(attempt, *arguments):
    """ "yes", "refused" by a sentence of ours, or "no": another error, or values unlike those of `backward`."""
    try:
        attempt(*arguments)
    except Exception as error:  # torch has many types of them; a cell that turns to "no" fails the test
        return "refused" if any(sentence in str(error) for sentence in REFUSALS) else "no"
    return "yes"


def table(head, rows):
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def transform_cell(name, kind, attempt):
    if name in INDICES and kind in DERIVATIVES:
        return "-"  # whole numbers have no derivative
    return tried(attempt, OPERATIONS[name], *inputs())


def image_cell(name):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, format=name)
    decode(file.getvalue(), name)
    return "yes"


def device_cell(name):
    try:
        check_device_name(name)
    except UserError:
        return "refused: " + OTHER_NAMES[name]
    return "yes" if name == "cpu" else "accepted; not tried"


def layout_rows():
    for family in families():
        is_tokenizer = family.role == "tokenizer"
        pfid = ("yes" if hasattr(family.build, "tokenize") else "nFID instead") if is_tokenizer else "-"
        post = ("yes" if hasattr(family.build, "freeze_encoder") else "no") if is_tokenizer else "as the generator"
        for layout in family.layouts:
            yield [layout.name, f"`{family.kind}`", "yes", "where the shape fits", pfid, post]


def page():
    transforms = DERIVATIVES | OTHERS
    lines = [
        "# What is supported",
        "",
        "Written by `python tests/test_support.py`; a test tries it again and compares.",
        "yes: tried, on the CPU; refused: one sentence says what to do; -: has no meaning;",
        "no: it ends in an error of torch, or in other values than `backward` gives.",
        "",
        "## Operations and dtypes",
        "",
        *table(
            ["operation", *(str(d).removeprefix("torch.") for d in DTYPES)],
            [[n, *(tried(f, *inputs(d)) for d in DTYPES)] for n, f in OPERATIONS.items()],
        ),
        "",
        "## Operations and transforms (float32)",
        "",
        "torch.compile: captured whole (`fullgraph`), not compiled to machine code.",
        "",
        *table(
            ["operation", *transforms],
            [[n, *(transform_cell(n, k, f) for k, f in transforms.items())] for n in OPERATIONS],
        ),
        "",
        "## Devices",
        "",
        "As `--device` answers.",
        "",
        *table(["device", "supported"], [[n, device_cell(n)] for n in ("cpu", "cuda", "mps", "xpu", "rocm")]),
        "",
        "## Images",
        "",
        "Read from folders, tar shards and Parquet files (only folders tried here), as is most of what Pillow decodes.",
        "",
        *table(
            ["format", "read"], [*([n, image_cell(n)] for n in FORMATS), ["HEIC", f"with {HEIC_PACKAGE}; not tried"]]
        ),
        "",
        "## Published files",
        "",
        "As the registry declares; not tried here.",
        "",
        *table(["layout", "family", "read", "written", "pFID", "post-training"], layout_rows()),
        "",
    ]
    return "\n".join(lines)


@pytest.mark.filterwarnings("ignore")
def test_the_page_says_what_was_seen():
    assert page() == PAGE.read_text(), "python tests/test_support.py writes it anew"


if __name__ == "__main__":
    PAGE.write_text(page())
