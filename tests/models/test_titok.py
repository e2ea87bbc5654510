"""TiTok against outputs of the published code (1d-tokenizer 942a96f), and other sizes.

The golden files are random weights in the published layout (tests/golden_peers/titok).
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from robustok import load_tokenizer
from robustok.checkpoints.checkpoint import Checkpoint, write_checkpoint
from robustok.convert import main as convert
from robustok.core.errors import UserError
from robustok.model_configs import TiTokConfig
from robustok.models.interfaces import DiscreteTokenizer
from robustok.models.tokenizers.quantizer import Perturbation
from robustok.models.tokenizers.titok import TiTok

PEERS = Path(__file__).parents[1] / "golden_peers" / "titok"
NAMES = ("titok_sl16_vq64", "titok_sl64_vq128", "titok_b12_two_stage")
TWO_STAGE = PEERS / "titok_b12_two_stage"
SINGLE = TiTokConfig(
    **dict(image_size=16, patch_size=4, width=24, depth=1, heads=8, num_latents=5, codebook_size=11, code_width=6),
    **dict(decoder_patch_size=8, decoder_width=32, decoder_depth=2, decoder_heads=16, mlp_ratio=2.0, similarity="l2"),
)
DOUBLE = replace(
    SINGLE,
    **dict(decoder_patch_size=None, decoder_heads=8, similarity="cosine"),
    **dict(pixel_widths=(32, 64, 32), pixel_blocks=2, pixel_middle_blocks=3, pixel_codes=9, pixel_code_width=7),
)
SIZES = {
    "single-stage": SINGLE,
    "single-stage, unit vectors": replace(SINGLE, similarity="cosine", decoder_patch_size=2),
    "two-stage": DOUBLE,
    "two-stage, vectors as they are": replace(DOUBLE, similarity="l2", decoder_patch_size=8, pixel_widths=(32,) * 4),
}


def outputs(name: str) -> dict[str, torch.Tensor]:
    """What the published code makes of the weights `name`."""
    with np.load(PEERS / f"{name}_outputs.npz") as file:
        return {key: torch.from_numpy(np.array(value)) for key, value in file.items()}


def random_tokenizer(config: TiTokConfig) -> TiTok:
    torch.manual_seed(0)
    tokenizer = TiTok(config)
    for parameter in tokenizer.parameters():
        parameter.data.normal_(0, 0.3)
    return tokenizer.eval()


def images_of(tokenizer: TiTok, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, tokenizer.image_size, tokenizer.image_size) * 2 - 1


def changed_folder(tmp_path: Path, change) -> Path:
    """The two-stage golden folder with `change(state, settings)` done to it."""
    state, settings = load_file(TWO_STAGE / "model.safetensors"), json.loads((TWO_STAGE / "config.json").read_text())
    change(state, settings)
    folder = tmp_path / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_published_outputs(name, near):
    """Latents, indices, codes and images. The smallest margin of an index is 9e-5, noise of latents is 4e-7."""
    tokenizer, expected = load_tokenizer(PEERS / name), outputs(name)
    images, indices = expected["images"] / 127.5 - 1, expected["indices"].flatten(1)
    z = tokenizer.encode(images)
    assert z.dtype == torch.float32 and z.shape[1:] == tokenizer.latent_shape
    near(z, expected["z"].flatten(2).mT)
    assert torch.equal(tokenizer.tokenize(images), indices) and tokenizer.num_tokens == indices.shape[1]
    z_q = tokenizer.lookup(indices)
    near(z_q, expected["quant"].flatten(2).mT)
    near(tokenizer.decode(z_q), 2 * expected["decoded"] - 1)
    near(tokenizer.detokenize(expected["random_indices"]), (2 * expected["decoded_random"] - 1).clamp(-1, 1))
    as_bytes = ((tokenizer.reconstruct(images) + 1) * 127.5).round()
    assert (as_bytes - expected["decoded_uint8"]).abs().max() <= 1  # 1: where rounding decides
    if "code_logits" in expected:
        near(tokenizer.pixels.logits(tokenizer.decoder(z_q).tanh()).mT, expected["code_logits"].flatten(2))


@pytest.mark.parametrize("name", NAMES)
def test_conversion_and_back(name, tmp_path):
    """A folder of ours holds the same model; written back, weights and settings are those that it came with."""
    convert([str(PEERS / name), str(tmp_path / "ours")])
    convert([str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "upstream"])
    first, ours, theirs = (load_tokenizer(path) for path in (PEERS / name, tmp_path / "ours", tmp_path / "theirs"))
    assert first.config == ours.config == theirs.config
    assert all(torch.equal(tensor, ours.state_dict()[key]) for key, tensor in first.state_dict().items())
    before, after = (load_file(folder / "model.safetensors") for folder in (PEERS / name, tmp_path / "theirs"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    settings = [json.loads((folder / "config.json").read_text()) for folder in (PEERS / name, tmp_path / "theirs")]
    assert settings[0] == settings[1]


@pytest.mark.parametrize("config", SIZES.values(), ids=SIZES)
def test_other_sizes_survive_the_published_layout(config, tmp_path):
    """Written there with settings made for it, and read back: the same model."""
    tokenizer = random_tokenizer(config)
    weights = {"ema": tokenizer.state_dict()}
    write_checkpoint(Checkpoint(tmp_path, "ours", config, weights), "titok", tmp_path / "ours")
    convert([str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "upstream"])
    read = load_tokenizer(tmp_path / "theirs")
    assert read.config == config
    images = images_of(tokenizer)
    assert torch.equal(read.tokenize(images), tokenizer.tokenize(images))
    assert torch.equal(read.reconstruct(images), tokenizer.reconstruct(images))
    assert read.reconstruct(images).shape == images.shape


@torch.no_grad()
def test_outputs_of_a_two_stage_encoder_are_read_by_rows_of_tokens():
    """Against the definition, index by index: number c * L + l of an image's outputs is channel c of latent l."""
    tokenizer = random_tokenizer(DOUBLE)
    images = images_of(tokenizer)
    outputs = tokenizer.encoder((images + 1) / 2).flatten(1)
    L, weight, bias = DOUBLE.num_latents, tokenizer.quant_conv.weight, tokenizer.quant_conv.bias
    for latent, z in enumerate(tokenizer.encode(images).unbind(1)):
        torch.testing.assert_close(z, outputs[:, latent::L] @ weight.T + bias)


@torch.no_grad()
def test_a_file_that_stands_alone(tmp_path):
    """The flat .bin files: heads of standard widths, unit vectors in two-stage ones alone."""
    flat = tmp_path / "tokenizer_titok_b12.bin"
    torch.save(load_file(TWO_STAGE / "model.safetensors"), flat)
    with pytest.raises(UserError, match=r"width 72 is no standard size \(512, 768, 1024\).* give num_heads"):
        load_tokenizer(flat)
    folder, alone = load_tokenizer(TWO_STAGE), load_tokenizer(flat, num_heads=12)
    assert alone.config == folder.config and alone.similarity == "cosine"
    images = images_of(folder)
    assert torch.equal(alone.reconstruct(images), folder.reconstruct(images))
    assert load_tokenizer(flat, num_heads=12, similarity="l2").similarity == "l2"
    torch.save(load_file(PEERS / NAMES[0] / "model.safetensors"), flat)
    assert load_tokenizer(flat, num_heads=8).similarity == "l2"
    convert([str(TWO_STAGE), str(tmp_path / "ours")])
    assert load_tokenizer(tmp_path / "ours").config == folder.config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state, _: state.pop("quantize.embedding.weight"),
            r"nearest is the TiTok tokenizer, but it has no quantize\.embedding\.weight",
        ),
        (
            lambda state, _: [state.pop(key) for key in list(state) if key.startswith("pixel_")],
            r"recognised as two-stage TiTok .* 2 missing: pixel_quantize\.embedding\.weight, pixel_decoder\.conv_in",
        ),
        (
            lambda state, _: state.pop("encoder.conv_out.weight"),
            r"TiTok tokenizer .* 1 missing: encoder\.conv_out\.weight",
        ),
        (lambda state, _: state.pop("decoder.ln_pre.bias"), r"1 missing: decoder\.transformer\.first_norm\.bias"),
        (lambda state, _: state.update(text=torch.zeros(1)), r"tensors do not fit: 1 unexpected: text"),
        (
            lambda _, settings: settings["model"]["vq_model"].update(is_legacy=False),
            "is_legacy is True by the tensors, but False by config.json",
        ),
        (
            lambda _, settings: settings["model"]["vq_model"].update(num_latent_tokens=32),
            "num_latent_tokens is 12 by the tensors, but 32 by config.json",
        ),
        (
            lambda _, settings: settings["model"]["vq_model"].update(vit_dec_model_size="huge"),
            "vit_dec_model_size are 'base' and 'huge'; known: small, base, large",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load_tokenizer(changed_folder(tmp_path, change))


@pytest.mark.parametrize("given", [{"num_heads": 8}, {"similarity": "l2"}, {"image_size": 256}])
def test_what_is_given_must_not_contradict_the_settings(given):
    with pytest.raises(UserError, match=f"{next(iter(given))}: given .* but the file says .*; leave it out"):
        load_tokenizer(TWO_STAGE, **given)


def test_a_model_that_their_settings_cannot_name_is_not_written(tmp_path):
    config = replace(SINGLE, heads=4)
    weights = {"ema": TiTok(config).state_dict()}
    write_checkpoint(Checkpoint(tmp_path, "ours", config, weights), "titok", tmp_path / "ours")
    with pytest.raises(UserError, match="no published layout is known that holds it"):
        convert([str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "upstream"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 18}, "multiple of patch_size, found 18 and 4"),
        ({"decoder_patch_size": 5}, "multiple of decoder_patch_size, found 16 and 5"),
        ({"pixel_widths": (32,)}, "as many levels as make 8 pixels of a place, found 1"),
    ],
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        TiTok(replace(SINGLE, **changes))


def test_wrong_inputs():
    tokenizer = random_tokenizer(SINGLE)
    with pytest.raises(ValueError, match=r"images must be floating point \(B, 3, 16, 16\)"):
        tokenizer.encode(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"z_q must be \(B, 5, 6\), found \(1, 4, 6\)"):
        tokenizer.decode(torch.rand(1, 4, 6))


@pytest.mark.parametrize("config", [SINGLE, DOUBLE], ids=["single-stage", "two-stage"])
def test_perturbation_and_gradients(config):
    """Perturbed latents are decoded; gradients reach both sides, and the decoder alone once the encoder is frozen."""
    tokenizer = random_tokenizer(config)
    assert isinstance(tokenizer, DiscreteTokenizer) and tokenizer.perturbable == "codes"
    images = images_of(tokenizer)
    clean, perturbed = tokenizer.reconstruct(images), tokenizer.reconstruct(images, alpha=1.0, delta=11, seed=1)
    assert not torch.equal(clean, perturbed)
    out = tokenizer.train()(images, perturbation=Perturbation(alpha=1.0, beta=0.5, delta=11, seed=3))
    assert not torch.equal(out.indices[0], out.nearest[0]) and torch.equal(out.indices[1], out.nearest[1])
    (out.images.square().mean() + out.vq_loss + out.commit_loss).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in tokenizer.parameters())
    tokenizer.zero_grad()
    tokenizer.freeze_encoder()
    tokenizer.decode(tokenizer.lookup(tokenizer.tokenize(images))).square().mean().backward()
    learning = {name for name, parameter in tokenizer.named_parameters() if parameter.grad is not None}
    assert learning == {name for name, _ in tokenizer.named_parameters() if name.startswith(("decoder.", "pixels."))}
    assert {id(p) for p in tokenizer.decoder_parameters()} == {id(p) for p in tokenizer.parameters() if p.requires_grad}
    assert tokenizer.last_layer.shape == (3, 3 if config is SINGLE else 32, 3, 3) and tokenizer.last_layer.grad.any()
