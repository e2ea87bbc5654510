"""The tokenizer by itself: shapes, gradients, freezing, tuning, warm-up, wrong input."""

import dataclasses
import sys

import pytest
import torch

from robustok import load_tokenizer
from robustok.checkpoints.writing import save
from robustok.config import FrozenConfig
from robustok.core.errors import UserError
from robustok.model_configs import TokenizerConfig
from robustok.models.tokenizers.perturbation import Perturbation
from robustok.models.tokenizers.tuning import tune
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer

TINY = TokenizerConfig(width=32, depth=2, heads=2, layer_scale=None, codebook_size=64, code_width=4)


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    return ViTTokenizer(TINY)


@pytest.fixture
def batch():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_shapes_and_ranges(tokenizer, batch):
    z, tokens = tokenizer.encode(batch), tokenizer.tokenize(batch)
    assert z.shape == (4, 16, 4) and tokens.shape == (4, 16) and tokens.dtype == torch.int64
    assert tokenizer.decode(z).shape == batch.shape
    with torch.no_grad():
        tokenizer.decoder.to_pixel.bias.fill_(3.0)
    assert tokenizer.detokenize(tokens).max() == 1 and tokenizer.decode(z).max() > 1
    assert tokenizer.reconstruct(batch).abs().max() <= 1


def test_quantised_latents_are_unit_codes(tokenizer, batch):
    """z_q is the row of the float64-normalised codebook with the smallest angle to z."""
    out = tokenizer(batch)
    codes = torch.nn.functional.normalize(tokenizer.codebook.double(), dim=1)
    nearest = (tokenizer.encode(batch).double() @ codes.T).argmax(-1)
    assert torch.equal(out.nearest, nearest)
    torch.testing.assert_close(out.z_q.double(), codes[nearest], atol=1e-6, rtol=0)
    assert torch.equal(out.usage, torch.bincount(nearest.flatten(), minlength=64))


def test_perturbation_reaches_the_decoder_only(tokenizer, batch):
    tokenizer.eval()
    perturbation = Perturbation(alpha=1.0, beta=0.5, delta=8, seed=3)
    clean, found = tokenizer(batch), tokenizer(batch, perturbation=perturbation)
    assert torch.equal(found.nearest, clean.nearest) and torch.equal(found.z_q_clean, clean.z_q_clean)
    assert found.vq_loss == clean.vq_loss and found.commit_loss == clean.commit_loss
    assert torch.equal(found.indices[2:], clean.indices[2:])
    assert (found.indices[:2] != clean.indices[:2]).float().mean() > 0.6  # 7 / 8 expected
    torch.testing.assert_close(found.images, tokenizer.decode(found.z_q))
    assert not torch.equal(found.images[:2], clean.images[:2])


def test_reconstruction_draws_by_sample_id(tokenizer, batch):
    tokenizer.eval()
    ids = torch.tensor([7, 3, 9, 5])
    options = dict(alpha=0.7, delta=20, seed=11)
    whole = tokenizer.reconstruct(batch, sample_ids=ids, **options)
    parts = [tokenizer.reconstruct(batch[i : i + 1], sample_ids=ids[i : i + 1], **options) for i in range(4)]
    torch.testing.assert_close(whole, torch.cat(parts))
    assert not torch.allclose(whole, tokenizer.reconstruct(batch, sample_ids=ids, **(options | {"seed": 12})))


def test_warm_up_without_codes(tokenizer, batch):
    out = tokenizer(batch, quantize=False)
    torch.testing.assert_close(out.z_q.norm(dim=-1), torch.ones(4, 16))
    assert out.vq_loss == 0 and out.commit_loss == 0
    out.images.sum().backward()
    assert tokenizer.codebook.grad is None and tokenizer.quant_conv.weight.grad.abs().sum() > 0


def test_every_parameter_is_on_one_side_and_learns(tokenizer, batch):
    sides = [list(tokenizer.encoder_parameters()), list(tokenizer.decoder_parameters())]
    assert len({id(p) for p in sides[0] + sides[1]}) == len(list(tokenizer.parameters())) == len(sides[0] + sides[1])
    out = tokenizer(batch)
    (out.images.square().mean() + out.vq_loss + out.commit_loss).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tokenizer.parameters())
    assert tokenizer.last_layer is tokenizer.decoder.to_pixel.weight


def test_frozen_encoder_stays_frozen(batch):
    """Post-training: neither gradients nor stochastic depth in the encoder, whatever the mode is switched to."""
    tokenizer = ViTTokenizer(dataclasses.replace(TINY, drop_path=0.5))
    tokenizer.freeze_encoder()
    tokenizer.train()
    assert torch.equal(tokenizer.encode(batch), tokenizer.encode(batch))
    assert not torch.equal(tokenizer(batch).images, tokenizer(batch).images)
    tokenizer(batch).images.sum().backward()
    assert all(p.grad is None for p in tokenizer.encoder_parameters())
    assert all(p.grad is not None for p in tokenizer.decoder_parameters())


def test_comparisons_stay_float32_under_autocast(tokenizer, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = tokenizer.encoder(batch)
        z, out = tokenizer.project(features), tokenizer(batch)
    assert z.dtype == out.z_q.dtype == torch.float32
    expected = features.float() @ tokenizer.quant_conv.weight.T + tokenizer.quant_conv.bias
    torch.testing.assert_close(z, expected)


def test_nan_reaches_the_image(tokenizer, batch):
    batch[1, 0, 0, 0] = torch.nan
    images = tokenizer(batch).images
    assert images[1].isnan().any() and not images[[0, 2, 3]].isnan().any()


def test_digits_are_learned_fast(batch):
    """The tiny preset overfits eight pictures within a hundred steps: initial values and gradients are sound."""
    torch.manual_seed(0)
    tokenizer = ViTTokenizer(dataclasses.replace(TINY, width=64))
    images = torch.nn.functional.interpolate(torch.rand(8, 3, 8, 8) * 2 - 1, size=(32, 32), mode="bicubic")
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    losses = []
    for _ in range(100):
        out = tokenizer(images, quantize=False)
        losses.append(torch.nn.functional.mse_loss(out.images, images))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.45 * losses[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.encode(torch.zeros(1, 3, 64, 64)), r"images must be .*\(B, 3, 32, 32\).*found .*64, 64\)"),
        (lambda t: t.encode(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)), "found torch.uint8"),
        (lambda t: t.decode(torch.zeros(1, 9, 4)), r"z_q must be \(B, 16, 4\), found \(1, 9, 4\)"),
        (lambda t: t.detokenize(torch.full((1, 16), 64)), r"indices: found \[64, .*\], expected integers 0\.\.63"),
        (lambda t: t.detokenize(torch.full((1, 16), -1)), r"indices: found \[-1, "),
        (lambda t: t.quantizer.set_codebook(torch.zeros(3, 4)), r"codes must have shape \(64, 4\), found \(3, 4\)"),
    ],
)
def test_wrong_input(tokenizer, call, message):
    with pytest.raises(ValueError, match=message):
        call(tokenizer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(patch_size=7), "multiple of patch_size, found 32 and 7"),
        (dict(num_latents=10), "num_latents must be a square number .* found 10"),
        (dict(heads=5), "heads must divide width, found width 32 and heads 5"),
    ],
)
def test_wrong_sizes(settings, message):
    with pytest.raises(ValueError, match=message):
        ViTTokenizer(dataclasses.replace(TINY, **settings))


def test_frozen_tuning(tokenizer):
    tune(tokenizer, FrozenConfig(encoder_tuning="frozen"))
    assert not any(p.requires_grad for p in tokenizer.encoder.vit.parameters())
    rest = [p for n, p in tokenizer.named_parameters() if not n.startswith("encoder.vit.")]
    assert all(p.requires_grad for p in rest)


def test_lora_learns_little_and_is_merged_on_loading(tokenizer, batch, tmp_path):
    pytest.importorskip("peft")
    tokenizer.eval()
    before = tokenizer.reconstruct(batch)
    tune(tokenizer, FrozenConfig(encoder_tuning="lora", decoder_tuning="lora", lora_rank=2))
    torch.testing.assert_close(tokenizer.reconstruct(batch), before)
    learning = {n for n, p in tokenizer.encoder.vit.named_parameters() if p.requires_grad}
    assert (
        all((".mlp.fc" in n and ".lora_" in n) or n.startswith("norm.") for n in learning)
        and len(learning) == 2 * 4 + 2
    )
    with torch.no_grad():
        for name, parameter in tokenizer.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    config = {"kind": "tokenizer", "config": dataclasses.asdict(TINY)}
    save(tmp_path / "step-1", {"model": tokenizer.state_dict(), "ema": tokenizer.state_dict()}, {"config": config})
    changed = tokenizer.reconstruct(batch)
    assert not torch.allclose(changed, before, atol=1e-2)
    torch.testing.assert_close(load_tokenizer(tmp_path / "step-1").reconstruct(batch), changed, atol=1e-5, rtol=1e-4)


def test_lora_without_peft_says_what_to_install(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'robustok\[lora\]'"):
        tune(tokenizer, FrozenConfig(encoder_tuning="lora"))
