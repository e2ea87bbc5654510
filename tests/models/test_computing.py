"""Tokenizers that compute faster than exactly: how far from exact, refused beyond that, and compiled once."""

import gc
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from robustok.core.errors import UserError
from robustok.generation.batches import decode_batches
from robustok.models import computing
from robustok.models.computing import compute_in, precision_of
from robustok.models.interfaces import is_discrete
from tests.host_reads import reads_of
from tests.small_tokenizers import CONFIGS, small_tokenizer


@pytest.fixture
def graphs(monkeypatch):
    """() -> graphs traced so far; no code is generated for them."""
    torch._dynamo.reset()
    counters.clear()
    compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, **how: compile(module, backend="eager", **how))
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def images(count):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def latents(model, count):
    return model.lookup(model.tokenize(images(count))) if is_discrete(model) else model.encode(images(count))


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_float32_is_exact_and_bfloat16_near(name):
    model, wide = small_tokenizer(name), small_tokenizer(name).double()
    z = latents(model, 5)
    plain, expected = model.decode(z), wide.decode(z.double()).float()
    assert torch.equal(compute_in(model, "float32").decode(z), plain) and precision_of(model) == "float32"
    near = compute_in(model, "bfloat16").decode(z)
    error = ((near - expected) / expected.abs().max()).abs().max()
    assert near.dtype == torch.float32 and 1e-4 < error < 0.05  # bfloat16 has 8 bits; and it was taken
    assert precision_of(model) == "bfloat16"
    given = model.tokenize(images(5)) if is_discrete(model) else z
    assert torch.equal(torch.cat([*decode_batches(model, given, 5)]), torch.cat([*decode_batches(model, given, 2)]))


def test_a_caller_s_autocast_does_not_reach_an_exact_tokenizer():
    model = compute_in(small_tokenizer("vit"), "float32")
    z = latents(model, 2)
    alone = model.decode(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.decode(z), alone)


def test_a_caller_s_wish_for_determinism_reaches_an_exact_tokenizer(monkeypatch):
    model, seen = small_tokenizer("vit"), []
    z = latents(model, 2)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(type(model), "decode", lambda self, z: seen.append(torch.backends.cudnn.deterministic) or z)
    compute_in(model, "float32").decode(z)
    assert seen == [True]


@pytest.mark.parametrize("scale, refused", [(0.0195, False), (0.0205, True)])
@pytest.mark.parametrize("wrong", [slice(None), slice(3, 4)])
def test_an_image_too_far_from_the_exact_one_is_refused(scale, refused, wrong, monkeypatch):
    """An error of `scale` in images of the range -1 to 1 is -20 log10(scale / 2) dB: 40 dB for 0.02.

    One bad image is enough: a mean over eight would hide it.
    """
    model = small_tokenizer("vit")
    plain, calls = type(model).decode, []

    def decode(self, z):
        calls.append(len(z))
        decoded = (plain(self, z) * 0).float()
        decoded[wrong] += scale * torch.is_autocast_enabled("cpu")
        return decoded

    monkeypatch.setattr(type(model), "decode", decode)
    compute_in(model, "bfloat16")
    z = latents(model, 12)
    if refused:
        for _ in range(2):  # and again: it was not found to be near
            with pytest.raises(UserError, match=r"bfloat16: an image is 39.8 dB .* at least 40 dB; use --tok"):
                model.decode(z)
    else:
        model.decode(z), model.decode(z)
        assert calls == [8, 12, 12]  # exactly once, of eight images


def test_nan_is_refused(monkeypatch):
    model = small_tokenizer("vit")
    monkeypatch.setattr(type(model), "decode", lambda self, z: z * float("nan"))
    with pytest.raises(UserError, match="an image is nan dB"):
        compute_in(model, "bfloat16").decode(latents(model, 2))


@pytest.mark.parametrize("name", ["vit", "convolutional", "titok"])
def test_one_graph_for_batches_of_every_size(name, graphs):
    """Batches of a stream and its last, which is smaller, go through the same compiled code."""
    model = small_tokenizer(name)
    tokens = model.tokenize(images(11))
    exact = torch.cat([*decode_batches(model, tokens, 4)])
    compute_in(model, "float32", compiled=True)
    found = torch.cat([*decode_batches(model, tokens, 4)])
    assert graphs() == 1
    model.detokenize(tokens[:1]), model.detokenize(tokens[:3])
    assert graphs() <= 2  # at most one more under no_grad
    assert (found.int() - exact.int()).abs().max() <= 1
    again = torch.cat([*decode_batches(model, tokens, 4)])
    assert torch.equal(again, found)


@pytest.fixture
def captured(monkeypatch):
    """As on a GPU: what was captured so far, each by what it found first."""
    found = []

    def capture(unit, device):
        """Replays to where it wrote first, as a graph does."""
        unit()
        found.append(unit.__self__.found)
        place = found[-1]

        def replay():
            unit()
            with torch.inference_mode():
                place.copy_(unit.__self__.found)
            unit.__self__.found = place

        return SimpleNamespace(replay=replay)

    monkeypatch.setattr(computing, "_on_a_gpu", lambda rows: True)
    monkeypatch.setattr(computing, "capture", capture)
    return found


@pytest.mark.parametrize("name", ["vit", "convolutional", "titok"])
def test_a_gpu_replays_what_is_compiled(name, graphs, captured):
    """One graph for batches of every size, in every mode but where gradients are wanted; nothing is overwritten."""
    model = small_tokenizer(name)
    z = torch.randn(7, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = model.decode(z)
    assert (exact[:3] - exact[4:]).abs().max() > 1e-3
    compute_in(model, "float32", compiled=True)
    with torch.inference_mode():
        first = model.decode(z[:4])
    with torch.no_grad():
        second = model.decode(z[4:])
    assert len(captured) == 1 and graphs() >= 1
    assert torch.allclose(torch.cat([first, second]), exact, rtol=1e-4, atol=1e-4)
    model.decode(z[:4].requires_grad_()).sum().backward()
    assert len(captured) == 1
    with torch.no_grad():
        assert torch.allclose(model.decode(z), exact, rtol=1e-4, atol=1e-4) and len(captured) == 2  # a larger one
        moved = list(model.decoder_side()[-1].parameters())[-1]
        moved.data = moved.data.clone()
        assert torch.allclose(model.decode(z), exact, rtol=1e-4, atol=1e-4) and len(captured) == 3  # at another place
        model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
        assert torch.allclose(model.decode(z), exact, rtol=1e-4, atol=1e-4) and len(captured) == 4  # other tensors


SHAPES = [(name, {}) for name in CONFIGS]
# as MaskGIT's and FLUX's: sides with modules that have no weights
SHAPES += [("convolutional", {"projected": False, "feature_width": 4})]
SHAPES += [("vae", {"quant_conv": False, "post_quant_conv": False})]


@pytest.mark.parametrize("name, changes", SHAPES)
def test_tokenizers_of_every_family_are_replayed(name, changes, captured, monkeypatch):
    monkeypatch.setattr(computing, "compile_blocks", lambda *module, **how: None)
    monkeypatch.setitem(CONFIGS, name, replace(CONFIGS[name], **changes))
    model, x, order = small_tokenizer(name), images(4), [0, 1, 2, 3, 0]
    with torch.inference_mode():
        z = latents(model, 4)
        encoded, decoded = model.encode(x), model.decode(z)
        compute_in(model, "float32", compiled=True)
        torch.testing.assert_close(torch.cat([model.encode(x), model.encode(x[:1])]), encoded[order])
        torch.testing.assert_close(torch.cat([model.decode(z), model.decode(z[:1])]), decoded[order])
    assert len(captured) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["vit", "convolutional", "titok"])
def test_replayed_images_are_near_exact_ones(name):
    model = small_tokenizer(name)
    z = latents(model, 11).detach()
    with torch.inference_mode():
        exact = model.decode(z)
    model = compute_in(model.cuda(), "bfloat16", compiled=True)
    with torch.inference_mode():
        found = [model.decode(part) for part in z.cuda().split(4)]
        again = [model.decode(part) for part in z.cuda().split(4)]
    for image, second in zip(found, again, strict=True):
        assert torch.equal(image, second)
    error = (torch.cat(found).cpu().clamp(-1, 1) - exact.clamp(-1, 1)).square().mean().sqrt()
    assert error < 0.02


def test_encoding_of_an_odd_batch_compiles_nothing_anew(graphs):
    model = compute_in(small_tokenizer("vit"), "bfloat16", compiled=True)
    with torch.inference_mode():
        whole = model.tokenize(images(6))
        first = graphs()
        assert first == 1 and torch.equal(model.tokenize(images(6)[:5]), whole[:5])
        assert graphs() == first


def test_only_the_first_batch_is_waited_for():
    model = compute_in(small_tokenizer("vit"), "bfloat16")
    z = latents(model, 3)
    assert reads_of(lambda: model.decode(z)) == {("models/computing.py", "_check"): 1}
    assert reads_of(lambda: model.decode(z)) == {}


def test_gradients_pass_through_what_is_filled_in():
    model = compute_in(small_tokenizer("vit"), "bfloat16", compiled=False)
    z = latents(model, 3).detach().requires_grad_()
    model.decode(z).square().sum().backward()
    assert z.grad.isfinite().all() and z.grad.abs().sum() > 0


def test_a_tokenizer_that_nobody_holds_is_free():
    model = compute_in(small_tokenizer("vit"), "bfloat16")
    model.decode(latents(model, 2))
    left = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert left() is None
    finally:
        gc.enable()
