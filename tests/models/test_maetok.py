"""MAETok and SoftVQ against outputs of the published code (continuous_tokenizer 7cc3e96), and other sizes.

The golden files are random weights in the published layout (tests/golden_peers/maetok_sit).
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from robustok import load_tokenizer
from robustok.checkpoints.checkpoint import Checkpoint
from robustok.convert import main as convert
from robustok.core.errors import UserError
from robustok.formats.maetok import MAETOK_RELEASE, to_published
from robustok.model_configs import MAETokConfig
from robustok.models.interfaces import ContinuousTokenizer, DiscreteTokenizer, is_discrete
from robustok.models.rotary import rotate
from robustok.models.tokenizers.maetok import MAETok
from robustok.models.tokenizers.masked_features import hidden_patches, masked_loss
from robustok.models.tokenizers.perturbation import Perturbation

PEERS = Path(__file__).parents[1] / "golden_peers" / "maetok_sit"
HEADS = {"ae_ape": 4, "ae_ropemixed_movq": 2, "softvq_ape": 4}
PLAIN = MAETokConfig(
    **dict(image_size=32, patch_size=8, width=48, depth=2, heads=2, decoder_width=32, decoder_depth=1, decoder_heads=2),
    **dict(num_latents=6, latent_width=5, targets=(), hidden=(0.0, 0.0)),
)
SMALL = replace(
    PLAIN,
    **dict(targets=("hog", "teacher"), target_widths=(108, 12)),
    **dict(auxiliary_width=16, auxiliary_depth=1, auxiliary_heads=2),
)


def outputs(name: str) -> dict[str, torch.Tensor]:
    """What the published code makes of the weights `name`."""
    with np.load(PEERS / f"{name}_outputs.npz") as file:
        return {key: torch.from_numpy(np.array(value)) for key, value in file.items()}


def hub_folder(name: str, folder: Path) -> Path:
    """The golden files under the names they have on a hub."""
    shutil.copy(PEERS / f"{name}_config.json", folder / "config.json")
    shutil.copy(PEERS / f"{name}_model.safetensors", folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_published_outputs(name, tmp_path, near):
    tokenizer, expected = load_tokenizer(hub_folder(name, tmp_path), num_heads=HEADS[name]), outputs(name)
    images = expected["image_uint8"] / 127.5 - 1
    near(tokenizer.encoder(images), expected["encoder_tokens"])
    z = tokenizer.encode(images)
    assert z.dtype == torch.float32 and z.shape[1:] == tokenizer.latent_shape
    near(z, expected["latent"])
    near(tokenizer.decode(expected["latent"]), expected["decoded"])
    near(tokenizer.reconstruct(images), expected["decoded"].clamp(-1, 1))
    if "random_latent" in expected:
        near(tokenizer.decode(expected["random_latent"]), expected["decoded_random_latent"])
        config = tokenizer.config
        near((z - config.latent_mean) / config.latent_std, expected["latent_normalised"])
    if "pre_quant" in expected:
        near(tokenizer.quant_conv(tokenizer.encoder(images)), expected["pre_quant"])
        assert torch.equal(tokenizer.quantizer.nearest(expected["pre_quant"]), expected["indices"])


def test_continuous_tokenizers_are_known_as_such():
    tokenizer = MAETok(PLAIN)
    assert isinstance(tokenizer, ContinuousTokenizer) and not isinstance(tokenizer, DiscreteTokenizer)
    assert not is_discrete(tokenizer)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rotary": True, "decoder_class_token": False, "decoder_patch_size": 4},
        {"modulated_decoder": True, "layer_scale": None, "mlp_ratio": 2.0},
        {"codebooks": 3, "codebook_size": 7, "temperature": 0.5, "normalize": False, "latent_mean": 0.25},
    ],
)
def test_other_sizes_survive_the_published_layout(changes, tmp_path, near):
    """Weights of every kind, written there and read back: the same outputs and the same settings."""
    torch.manual_seed(0)
    config = replace(PLAIN, **changes)
    tokenizer = MAETok(config)
    for parameter in tokenizer.parameters():
        parameter.data.normal_(0, 0.3)
    content = MAETOK_RELEASE.write(Checkpoint(tmp_path, "ours", config, {"ema": tokenizer.state_dict()}))
    content.save(tmp_path / "theirs")
    read = load_tokenizer(tmp_path / "theirs", num_heads=2)
    assert read.config == config
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(read.reconstruct(images), tokenizer.eval().reconstruct(images))


def test_the_settings_and_keys_written_are_those_of_the_published_file(tmp_path):
    """Golden weights, converted to ours and back to a folder of theirs: each tensor that their networks use."""
    for name in HEADS:
        (tmp_path / name).mkdir()
        source = hub_folder(name, tmp_path / name)
        back = tmp_path / f"{name}-back"
        convert([str(source), str(back), "--to", "upstream", "--num_heads", str(HEADS[name])])
        written, stored = (load_file(folder / "model.safetensors") for folder in (back, source))
        settings = (json.loads((folder / "config.json").read_text()) for folder in (back, source))
        assert len({json.dumps(s["config"], sort_keys=True) for s in settings}) == 1
        assert {key: tensor.shape for key, tensor in written.items()} == {k: t.shape for k, t in stored.items()}
        unused = ("decoder.model.patch_embed.", *(["decoder.model.pos_embed"] if "rope" in name else []))
        assert all(torch.equal(written[key], stored[key]) for key in stored if not key.startswith(unused))


def test_auxiliary_decoders_are_left_out_there_and_their_own_are_passed_over(tmp_path):
    tokenizer = MAETok(SMALL)
    state = to_published(tokenizer.state_dict(), SMALL)
    assert not any("masked" in key for key in state)
    extra = {"decoder_hog.mask_token": torch.zeros(1), "encoder.mask_token": torch.zeros(1), "repa_x": torch.zeros(1)}
    torch.save(state | extra, tmp_path / "theirs.pt")
    assert load_tokenizer(tmp_path / "theirs.pt", num_heads=2).masked is None


def test_what_does_not_fit_is_named(tmp_path):
    state = to_published(MAETok(PLAIN).state_dict(), PLAIN)
    torch.save(state, tmp_path / "whole.pt")
    with pytest.raises(UserError, match="give num_heads"):
        load_tokenizer(tmp_path / "whole.pt")
    torch.save(state | {"encoder.unheard_of": torch.zeros(1)}, tmp_path / "more.pt")
    with pytest.raises(UserError, match=r"1 unexpected: encoder\.unheard_of"):
        load_tokenizer(tmp_path / "more.pt", num_heads=2)
    torch.save({k: v for k, v in state.items() if k != "quant_conv.weight"}, tmp_path / "less.pt")
    with pytest.raises(UserError, match=r"recognised as MAETok or SoftVQ .*missing: quant_conv\.weight"):
        load_tokenizer(tmp_path / "less.pt", num_heads=2)
    torch.save({k: v for k, v in state.items() if "to_pixel" not in k}, tmp_path / "marks.pt")
    with pytest.raises(UserError, match=r"nearest is the MAETok .* no decoder\.to_pixel\.model\.weight"):
        load_tokenizer(tmp_path / "marks.pt", num_heads=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 36}, "multiple of patch_size"),
        ({"decoder_patch_size": 5}, "multiple of decoder_patch_size"),
        ({"codebooks": 4, "codebook_size": 8}, "codebooks must divide num_latents"),
        ({"decoder_class_token": False}, "cannot be left out"),
        ({"targets": ("hog",), "target_widths": (1, 2)}, "one for each"),
        ({"rotary": True, "width": 50, "heads": 2}, "even width"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MAETok(replace(PLAIN, **changes))


def test_noise_belongs_to_the_image_whatever_the_batch():
    """The same noise for an image in any batch; its spread is what was asked for; none changes nothing."""
    tokenizer = MAETok(PLAIN).eval()
    images, ids = torch.rand(6, 3, 32, 32) * 2 - 1, torch.arange(6)
    whole = tokenizer.reconstruct(images, noise=0.5, seed=3, sample_ids=ids)
    part = tokenizer.reconstruct(images[4:], noise=0.5, seed=3, sample_ids=ids[4:])
    torch.testing.assert_close(whole[4:], part)
    assert not torch.equal(whole, tokenizer.reconstruct(images, noise=0.5, seed=4, sample_ids=ids))
    assert torch.equal(tokenizer.reconstruct(images), tokenizer.decode(tokenizer.encode(images)).clamp(-1, 1))


@pytest.mark.parametrize("kind", ["gaussian", "interpolate"])
def test_noise_of_training(kind):
    """Only the first images; each has a strength of its own, uniform up to the largest."""
    z = torch.zeros(400, 20, 10)
    step = Perturbation(1.0, 1.0, 1, 5, 300, torch.arange(400), kind=kind, strength=0.8)
    noisy = step.apply(z)[0]
    spread = noisy[:300].flatten(1).std(1)
    assert torch.equal(noisy[300:], z[300:])
    assert 0.35 < spread.mean() < 0.45 and spread.min() < 0.05 and 0.75 < spread.max() < 0.9
    kept = step.apply(z + 1)[0][:300] - noisy[:300]  # what is left of the latent itself
    expected = torch.ones(300) if kind == "gaussian" else 1 - spread
    torch.testing.assert_close(kept.flatten(1).mean(1), expected, atol=0.1, rtol=0)


def test_hidden_patches_are_drawn_for_each_image():
    """Shares are uniform between the limits, places uniform over the image, and batches change nothing."""
    ids = torch.arange(2000)
    hidden = hidden_patches(ids, 64, (0.4, 0.6), seed=1)
    shares = hidden.float().mean(1)
    assert shares.min() >= 0.39 and shares.max() <= 0.61 and 0.05 < shares.std() < 0.065
    assert ((hidden.float().mean(0) - 0.5).abs() < 0.06).all()
    assert torch.equal(hidden[7:9], hidden_patches(ids[7:9], 64, (0.4, 0.6), seed=1))
    assert not torch.equal(hidden, hidden_patches(ids, 64, (0.4, 0.6), seed=2))


def test_hidden_patches_are_not_seen():
    """Changing hidden patches changes nothing; all parts learn from a step with hidden patches."""
    tokenizer = MAETok(SMALL)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[:, :4] = True  # the uppermost row of patches
    other = images.clone()
    other[:, :, :8] = 0
    out = tokenizer(images, hidden=hidden)
    assert torch.equal(out.z, tokenizer(other, hidden=hidden).z)
    assert not torch.equal(tokenizer(images).z, tokenizer(other).z)
    assert {name: tuple(p.shape) for name, p in out.predictions.items()} == {
        "hog": (2, 16, 108),
        "teacher": (2, 16, 12),
    }
    (out.images.square().mean() + sum(p.square().mean() for p in out.predictions.values())).backward()
    assert all(parameter.grad is not None for parameter in tokenizer.parameters())


def test_loss_counts_hidden_patches_alone():
    prediction, target = torch.zeros(2, 3, 4), torch.arange(3.0)[None, :, None].expand(2, 3, 4)
    hidden = torch.tensor([[False, True, False], [False, True, True]])
    assert masked_loss(prediction, target, hidden) == (1 + 1 + 4) / 3
    assert masked_loss(prediction, target, None) == 5 / 3


def test_rotation_turns_neighbouring_channels():
    """Against multiplication of complex numbers."""
    x, angles = torch.randn(2, 3, 5, 8, dtype=torch.float64), torch.randn(3, 5, 4, dtype=torch.float64)
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.polar(angles * 0 + 1, angles))
    torch.testing.assert_close(rotate(x, angles.cos(), angles.sin()), expected.flatten(-2))


def test_freezing_the_encoder_leaves_the_decoder_alone():
    tokenizer = MAETok(SMALL)
    tokenizer.decoder.mask_token.requires_grad_(False)
    tokenizer.freeze_encoder()
    learning = {name for name, p in tokenizer.named_parameters() if p.requires_grad}
    expected = {name for name, _ in tokenizer.named_parameters() if name.startswith("decoder.")}
    assert learning == expected - {"decoder.mask_token"}
    assert tokenizer.train().encoder.training is False and tokenizer.decoder.training
