"""Models under what users bring: other kinds of integers, export with a free batch, compilation as one graph."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robustok import perturb, vq_perturb
from robustok.core.errors import UserError
from robustok.evaluation import pfid
from robustok.model_configs import ConvTokenizerConfig, TokenizerConfig
from robustok.models.tokenizers.conv_tokenizer import ConvTokenizer
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.ops.indices import as_indices

VIT = TokenizerConfig(
    image_size=16, patch_size=8, num_latents=4, codebook_size=32, code_width=4, width=32, depth=1, heads=2
)
CONV = ConvTokenizerConfig(
    image_size=16,
    widths=(32, 32),
    blocks=1,
    decoder_blocks=1,
    attention=(),
    middle_blocks=1,
    middle_attention=False,
    feature_width=8,
    codebook_size=32,
    code_width=4,
)


@pytest.fixture(params=["vit", "conv"], scope="module")
def tokenizer(request):
    torch.manual_seed(0)
    return (ViTTokenizer(VIT) if request.param == "vit" else ConvTokenizer(CONV)).eval()


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(count)) * 2 - 1


KINDS = [
    lambda x: x.tolist(),
    lambda x: x.numpy(),
    lambda x: x.numpy().astype(np.uint16),
    lambda x: list(x.numpy().astype(np.int8)),
    lambda x: x.to(torch.uint8),
    lambda x: x.to(torch.uint16),
    lambda x: x.to(torch.int32),
]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_classes_of_any_kind(tokenizer, make_model, kind):
    tokens = tokenizer.tokenize(images(2))
    assert torch.equal(tokenizer.lookup(kind(tokens)), tokenizer.lookup(tokens))
    assert torch.equal(tokenizer.detokenize(kind(tokens)), tokenizer.detokenize(tokens))
    model, classes = make_model(), torch.tensor([0, 3])
    drawn = model.generate(classes, seed=5, guidance_scale=2.0)
    ids = kind(torch.arange(2))
    assert torch.equal(model.generate(kind(classes), seed=np.int64(5), sample_ids=ids, guidance_scale=2.0), drawn)
    kept = model.generate(kind(classes), seed=5, guidance_scale=2.0, keep_tokens=kind(drawn), keep_ratio=1.0)
    assert torch.equal(kept, drawn)
    assert torch.equal(model.logits(kind(drawn), kind(classes)), model.logits(drawn, classes))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([[0, 32]], UserError, r"indices: found \[32\], expected integers 0\.\.31"),
        (np.array([[-1, 0]], np.int16), UserError, r"found \[-1\]"),
        (np.array([2**64 - 1], np.uint64), UserError, "expected integers"),
        ([[0.0, 1.0]], TypeError, "indices: found float64, expected integers"),
        (torch.zeros(1, 4), TypeError, "indices: found torch.float32, expected integers"),
        ([True], TypeError, "found bool"),
        (["a"], TypeError, "expected integers"),
    ],
)
def test_what_are_no_indices(tokenizer, values, error, message):
    with pytest.raises(error, match=message):
        tokenizer.lookup(values)


def test_no_indices_at_all():
    assert as_indices("tokens", [], 4).dtype == torch.int64


class _Call(torch.nn.Module):
    """A method of a tokenizer as the forward of a module, which is what export takes."""

    def __init__(self, tokenizer, method: str):
        super().__init__()
        self.tokenizer, self.method = tokenizer, method

    def forward(self, x):
        return getattr(self.tokenizer, self.method)(x)


@pytest.mark.parametrize("method", ["tokenize", "detokenize", "reconstruct"])
def test_export_with_a_free_batch(tokenizer, method):
    call, of = _Call(tokenizer, method), tokenizer.tokenize if method == "detokenize" else (lambda x: x)
    free = {"x": {0: torch.export.Dim("batch", min=1, max=1024)}}
    exported = torch.export.export(call, (of(images(3)),), dynamic_shapes=free, strict=False).module()
    for count in (1, 5):
        torch.testing.assert_close(exported(of(images(count))), call(of(images(count))), rtol=1e-4, atol=1e-5)
    if method == "detokenize":
        # an exported graph that fails inside its no_grad leaves gradients off: enable_grad restores what was
        with torch.enable_grad(), pytest.raises(RuntimeError, match=r"indices: expected integers 0\.\.31"):
            exported(torch.full((2, tokenizer.num_tokens), 32))


def test_compiles_as_one_graph(tokenizer):
    """What torch makes of one graph is its own matter, and takes minutes."""

    @torch.compile(fullgraph=True, backend="eager", dynamic=True)
    def all_of_it(images):
        tokens = tokenizer.tokenize(images)
        return tokens, tokenizer.detokenize(tokens), tokenizer.reconstruct(images, alpha=0.5, delta=4)

    tokens, decoded, perturbed = all_of_it(images(2))
    assert torch.equal(tokens, tokenizer.tokenize(images(2)))
    torch.testing.assert_close(decoded, tokenizer.detokenize(tokens), rtol=1e-4, atol=1e-5)
    expected = tokenizer.reconstruct(images(2), alpha=0.5, delta=4)
    torch.testing.assert_close(perturbed, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_dtypes(tokenizer, dtype):
    """Tokens are those of float32 but for rounding; latents stay float32, images are of the weights' dtype."""
    other, x = copy.deepcopy(tokenizer).to(dtype), images(4)
    z, expected = other.encode(x), tokenizer.encode(x)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, expected, rtol=0.1, atol=0.1 * expected.abs().max().item())
    tokens = other.tokenize(x.to(dtype))
    assert torch.equal(tokens, other.tokenize(x))
    decoded = other.detokenize(tokens)
    assert decoded.dtype == dtype
    torch.testing.assert_close(decoded.float(), tokenizer.detokenize(tokens), rtol=0.1, atol=0.1)
    torch.testing.assert_close(other.reconstruct(x), decoded, rtol=1e-2, atol=1e-2)
    pooled = lambda batch: SimpleNamespace(features=batch.float().mean((2, 3)))  # noqa: E731
    pixels = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    assert pfid(other, pixels, pooled, alphas=(1.0,), deltas=(1,)).mean >= 0


def test_another_default_dtype(make_model):
    from robustok.models.load import meta_model

    z, codebook, model = torch.randn(2, 4, 4), torch.randn(8, 4), make_model()
    draw = {"alpha": 0.5, "beta": 1.0, "delta": 3, "seed": 1}
    expected, noise = vq_perturb(z, codebook, **draw), perturb(z, kind="gaussian", seed=1, strength=0.5)
    drawn = model.generate(torch.tensor([1, 2]), seed=0, guidance_scale=2.0, guidance_power=1.0)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(vq_perturb(z, codebook, **draw).z_q, expected.z_q)
        assert torch.equal(perturb(z, kind="gaussian", seed=1, strength=0.5).z_q, noise.z_q)
        assert torch.equal(model.generate([1, 2], seed=0, guidance_scale=2.0, guidance_power=1.0), drawn)
        assert {p.dtype for p in meta_model(VIT).to_empty(device="cpu").parameters()} == {torch.float32}
        built = ConvTokenizer(CONV).eval()  # in the caller's default
        assert built.dtype == torch.float64 and built.reconstruct(images(1).double()).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
