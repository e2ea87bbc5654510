"""Convolutional tokenizers against outputs of the published code, and other sizes against a rendering of their papers.

The golden files are random weights in the published layouts (tests/golden_peers): LlamaGen ce98ec4, taming-transformers
3ba01b2, SEED-Voken (IBQ) b9a17ea, 1d-tokenizer (MaskGIT-VQGAN) 942a96f.
"""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robustok import load_tokenizer
from robustok.checkpoints.checkpoint import Checkpoint
from robustok.convert import main as convert
from robustok.core.errors import UserError
from robustok.formats.llamagen_vq import LLAMAGEN_VQ
from robustok.formats.maskgit_vqgan import MASKGIT_VQGAN
from robustok.formats.pickles import read_pickled
from robustok.formats.vqgan import VQGAN_RELEASE
from robustok.model_configs import ConvTokenizerConfig
from robustok.models.interfaces import DiscreteTokenizer
from robustok.models.load import meta_model
from robustok.models.tokenizers.conv_tokenizer import ConvTokenizer
from robustok.models.tokenizers.perturbation import Perturbation

from . import conv_rendering as rendering

PEERS = Path(__file__).parents[1] / "golden_peers"
LLAMAGEN = PEERS / "llamagen" / "vq_tiny.pt"
IBQ = PEERS / "ibq" / "ibq_ema_tiny.ckpt"
TAMING = PEERS / "taming_vqgan" / "vqgan_f8_tiny.ckpt"
MASKGIT = PEERS / "maskgit_vqgan" / "maskgit_f16_tiny.bin"


def outputs(path: Path) -> dict[str, torch.Tensor]:
    """What the published code makes of the weights in `path`."""
    with np.load(path.with_name(f"{path.stem}_outputs.npz")) as file:
        return {key: torch.from_numpy(np.array(value)) for key, value in file.items()}


@pytest.mark.parametrize(
    ("path", "weights", "prefix", "similarity"),
    [
        (LLAMAGEN, "ema", "", "cosine"),
        (IBQ, "ema", "ema_", "dot"),
        (IBQ, "model", "raw_", "dot"),
        (TAMING, "ema", "", "l2"),
        (MASKGIT, "model", "", "l2"),
    ],
)
def test_published_outputs(path, weights, prefix, similarity, near):
    """Latents, indices and decoded images. Margins of the indices are 1e-4 and more, noise of latents is 1e-6."""
    expected = outputs(path)
    if path == LLAMAGEN:
        names = {"images": "image_uint8", "z": "pre_quant", "indices": "indices", "decoded": "decode_code"}
        expected |= {name: expected[theirs] for name, theirs in names.items()}
    tokenizer = load_tokenizer(path, weights)
    images = expected["images"] / 127.5 - 1
    z = tokenizer.encode(images)
    assert z.dtype == torch.float32 and tokenizer.similarity == similarity
    near(z, expected[f"{prefix}z"].flatten(2).mT)
    indices = tokenizer.tokenize(images)
    assert torch.equal(indices.flatten(), expected[f"{prefix}indices"].flatten())
    decoded = tokenizer.decode(tokenizer.lookup(indices))
    near(decoded, 2 * expected["decoded_unclamped"] - 1 if path == MASKGIT else expected[f"{prefix}decoded"])
    if path != MASKGIT and "random_indices" in expected:
        near(tokenizer.detokenize(expected["random_indices"]), expected[f"{prefix}decoded_random"].clamp(-1, 1))


def test_range_of_the_images(near):
    """MaskGIT's network works on [0, 1]; at our boundary its images are in [-1, 1] like all others."""
    expected = outputs(MASKGIT)
    tokenizer = load_tokenizer(MASKGIT)
    assert tokenizer.config.value_range == (0, 1)
    near(tokenizer.detokenize(expected["random_indices"]), 2 * expected["decoded_random"] - 1)


def recipe(name: str, shape: torch.Size) -> torch.Tensor:
    """A tensor of the golden data's recipe for weights too large to ship."""
    if name == "quantize.codebook_used":
        return torch.zeros(shape)
    values = np.random.Generator(np.random.PCG64(zlib.crc32(f"llamagen_vq16/{name}".encode()))).standard_normal(shape)
    if name != "quantize.embedding.weight":
        if len(shape) > 1:
            values /= np.sqrt(np.prod(shape[1:]))
        else:
            values = 0.1 * values + name.endswith(".weight")
    return torch.from_numpy(values.astype(np.float32))


def test_full_size_vq16(near):
    """The unmodified VQ-16 with 72 million weights, drawn by the golden data's recipe."""
    config = ConvTokenizerConfig(code_width=8, similarity="cosine")
    with torch.device("meta"):
        shapes = LLAMAGEN_VQ.write(Checkpoint(PEERS, "", config, {"ema": ConvTokenizer(config).state_dict()}))["model"]
    state = {name: recipe(name, tensor.shape) for name, tensor in shapes.items()}
    tokenizer = meta_model(config).to_empty(device="cpu").eval()
    tokenizer.load_state_dict(LLAMAGEN_VQ.published(state, config))
    expected = outputs(PEERS / "llamagen" / "vq16_fullsize_recipe.pt")
    with torch.inference_mode():
        images = expected["image_uint8"] / 127.5 - 1
        near(tokenizer.encode(images), expected["pre_quant"].flatten(2).mT)
        indices = tokenizer.tokenize(images)
        assert torch.equal(indices.flatten(), expected["indices"])
        near(tokenizer.decode(tokenizer.lookup(indices)), expected["decode_code"])


SIZES = {
    "deep and narrow": ConvTokenizerConfig(
        image_size=24, widths=(32, 64, 32), stem_width=64, blocks=1, decoder_blocks=2, attention=(2,), feature_width=12,
        codebook_size=40, code_width=6, similarity="cosine",
    ),
    "wider decoder": ConvTokenizerConfig(
        image_size=16, widths=(32, 64), decoder_widths=(64, 96), stem_width=32, blocks=3, decoder_blocks=1,
        attention=(1,), feature_width=20, codebook_size=30, code_width=7, similarity="cosine",
    ),
    "two levels of attention": ConvTokenizerConfig(
        image_size=16, widths=(64, 32, 64), stem_width=32, blocks=2, decoder_blocks=3, attention=(1, 2),
        feature_width=16, codebook_size=50, code_width=9,
    ),
    "attention in the middle": ConvTokenizerConfig(
        image_size=8, widths=(32, 32), stem_width=32, blocks=1, decoder_blocks=2, attention=(), middle_attention=True,
        feature_width=16, codebook_size=50, code_width=9, similarity="dot",
    ),
    "MaskGIT": ConvTokenizerConfig(
        image_size=16, style="maskgit", projected=False, widths=(32, 64, 96), stem_width=64, blocks=2, decoder_blocks=2,
        attention=(), middle_blocks=3, middle_attention=False, feature_width=24, codebook_size=30, code_width=24,
        value_range=(0.0, 1.0),
    ),
}  # fmt: skip
LAYOUTS = {
    "deep and narrow": ("llamagen", LLAMAGEN_VQ),
    "wider decoder": ("llamagen", LLAMAGEN_VQ),
    "two levels of attention": ("taming", VQGAN_RELEASE),
    "attention in the middle": ("taming", VQGAN_RELEASE),
    "MaskGIT": ("maskgit", MASKGIT_VQGAN),
}


def random_tokenizer(config: ConvTokenizerConfig) -> ConvTokenizer:
    """No weight is zero or one, so that each of them counts."""
    torch.manual_seed(0)
    tokenizer = ConvTokenizer(config).eval()
    for parameter in tokenizer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return tokenizer


@pytest.mark.parametrize("size", SIZES)
def test_other_sizes_in_the_published_layout(size, tmp_path, near):
    """Written, read back with the sizes off the tensors, and computed by a plain rendering of the written file."""
    config, (name, layout) = SIZES[size], LAYOUTS[size]
    tokenizer = random_tokenizer(config)
    content = layout.write(Checkpoint(tmp_path, "", config, {"ema": tokenizer.state_dict()}))
    torch.save(content, tmp_path / "theirs.pt")
    found = load_tokenizer(tmp_path / "theirs.pt", image_size=config.image_size)
    assert found.config == config
    images = torch.rand(2, 3, config.image_size, config.image_size) * 2 - 1
    z = found.encode(images)
    assert torch.equal(z, tokenizer.encode(images)) and z.shape[1:] == found.latent_shape

    state = content.get("model", content.get("state_dict", content))
    state = {key: tensor.double() for key, tensor in state.items()}
    sizes = {"layout": name, "levels": len(config.widths), "middle_blocks": config.middle_blocks}
    low, high = config.value_range
    inside = low + (images.double() + 1) * (high - low) / 2
    near(z, rendering.encode(state, rendering.encoder(blocks=config.blocks, **sizes), inside).flatten(2).mT)
    grid = config.image_size // found.cell
    z_q = torch.randn(2, grid * grid, config.code_width)
    maps = z_q.double().mT.unflatten(2, (grid, grid))
    decoded = rendering.decode(state, rendering.decoder(blocks=config.decoder_blocks, **sizes), maps)
    near(found.decode(z_q), (decoded - low) * 2 / (high - low) - 1)


@pytest.mark.parametrize("path", [LLAMAGEN, IBQ, TAMING, MASKGIT])
def test_conversion_and_back(path, tmp_path):
    """A folder of ours holds the same model; written back, the file holds the tensors that it came with."""
    convert([str(path), str(tmp_path / "ours")])
    convert([str(tmp_path / "ours"), str(tmp_path / "theirs.pt"), "--to", "upstream"])
    for name in ("ema", "model") if path == IBQ else ("ema",):
        first, ours, theirs = (load_tokenizer(p, name) for p in (path, tmp_path / "ours", tmp_path / "theirs.pt"))
        assert first.config == ours.config == theirs.config
        for key, tensor in first.state_dict().items():
            assert torch.equal(tensor, ours.state_dict()[key]) and torch.equal(tensor, theirs.state_dict()[key])
    before, after = (read_pickled(p) for p in (path, tmp_path / "theirs.pt"))
    before, after = (content.get("model", content.get("state_dict", content)) for content in (before, after))
    used = {key for key in before if not key.startswith(("loss.", "model_ema.loss"))}
    assert used == set(after)
    assert all(before[key].shape == after[key].shape and before[key].dtype == after[key].dtype for key in used)


def test_squares_of_other_sizes():
    """The published VQ-16 is used at 256, 384 and 512 pixels; another number of pixels or channels is refused."""
    tokenizer = load_tokenizer(TAMING, image_size=64)
    assert (tokenizer.image_size, tokenizer.grid, tokenizer.cell, tokenizer.num_tokens) == (64, 8, 8, 64)
    assert load_tokenizer(TAMING).latent_shape == (32 * 32, 20)
    images = torch.rand(1, 3, 24, 24)
    assert tokenizer.encode(images).shape == (1, 9, 20) and tokenizer.reconstruct(images).shape == images.shape
    for wrong in (torch.rand(1, 3, 20, 20), torch.rand(1, 3, 16, 24), torch.rand(1, 1, 16, 16), torch.rand(3, 16, 16)):
        with pytest.raises(ValueError, match=r"images must be floating point \(B, 3, S, S\) .* multiple of 8, found"):
            tokenizer.encode(wrong)
    with pytest.raises(ValueError, match="images must be floating point"):
        tokenizer.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    for wrong in (torch.rand(1, 8, 20), torch.rand(1, 9, 19), torch.rand(9, 20)):
        with pytest.raises(ValueError, match=r"z_q must be \(B, L, 20\) with L a square number, 64 as a rule"):
            tokenizer.decode(wrong)
    with pytest.raises(UserError, match="image_size must be a multiple of 8, found 20"):
        load_tokenizer(TAMING, image_size=20)


def test_the_rule_of_a_file_that_does_not_say_it(tmp_path):
    """Taming and IBQ without averages differ in the version of Lightning alone; a bare state dict says nothing."""
    content = read_pickled(TAMING)
    for version, similarity in {"1.9.5": "l2", "2.0.1": "dot"}.items():
        torch.save(content | {"pytorch-lightning_version": version}, tmp_path / "some.ckpt")
        assert load_tokenizer(tmp_path / "some.ckpt").similarity == similarity
        convert([str(tmp_path / "some.ckpt"), str(tmp_path / similarity)])
        convert([str(tmp_path / similarity), str(tmp_path / f"{similarity}.ckpt"), "--to", "upstream"])
        assert load_tokenizer(tmp_path / f"{similarity}.ckpt").similarity == similarity
        assert read_pickled(tmp_path / f"{similarity}.ckpt")["state_dict"].keys() <= content["state_dict"].keys()
    torch.save(content["state_dict"], tmp_path / "bare.ckpt")
    with pytest.raises(UserError, match=r"have the same tensors, .* give similarity \"l2\" \(taming.*\"dot\" \(IBQ"):
        load_tokenizer(tmp_path / "bare.ckpt")
    assert load_tokenizer(tmp_path / "bare.ckpt", similarity="dot").similarity == "dot"
    with pytest.raises(UserError, match='similarity must be "l2", "cosine" or "dot", found \'euclid\''):
        load_tokenizer(tmp_path / "bare.ckpt", similarity="euclid")


def test_what_is_missing_is_named(tmp_path):
    content = read_pickled(LLAMAGEN)["model"]
    broken = {key: tensor for key, tensor in content.items() if key != "encoder.mid.1.q.bias"}
    torch.save({"model": broken}, tmp_path / "broken.pt")
    with pytest.raises(UserError, match=r"recognised as LlamaGen VQ .* 1 missing: encoder\.middle\.1\.q\.bias"):
        load_tokenizer(tmp_path / "broken.pt")
    torch.save({k: v for k, v in content.items() if not k.startswith("encoder.conv_in")}, tmp_path / "sizes.pt")
    with pytest.raises(UserError, match=r"LlamaGen VQ tokenizer .* but 1 missing: encoder\.conv_in\.weight"):
        load_tokenizer(tmp_path / "sizes.pt")
    state = {k: v for k, v in read_pickled(MASKGIT).items() if k != "quantize.embedding.weight"}
    torch.save(state, tmp_path / "continuous.pt")
    with pytest.raises(UserError, match=r"nearest is the MaskGIT-VQGAN, but it has no quantize\.embedding\.weight"):
        load_tokenizer(tmp_path / "continuous.pt")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"decoder_widths": (32,)}, "as many levels as each other, found 2 and 1"),
        ({"image_size": 25}, "image_size must be a multiple of 2, the side of a latent, found 25"),
        ({"projected": False}, "feature_width must be code_width, found 16 and 9"),
        ({"value_range": (1.0, 0.0)}, "value_range must be"),
    ],
)
def test_sizes_that_do_not_fit(wrong, message):
    with pytest.raises(ValueError, match=message):
        ConvTokenizer(replace(SIZES["attention in the middle"], **wrong))


def test_training_forward():
    """Perturbed latents are decoded; gradients reach both sides, and the decoder alone once the encoder is frozen."""
    tokenizer = random_tokenizer(SIZES["two levels of attention"])
    assert isinstance(tokenizer, DiscreteTokenizer) and tokenizer.perturbable == "codes"
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    out = tokenizer.train()(images, perturbation=Perturbation(alpha=1.0, beta=0.5, delta=50, seed=3))
    assert not torch.equal(out.indices[0], out.nearest[0]) and torch.equal(out.indices[1], out.nearest[1])
    assert out.usage.sum() == out.nearest.numel()
    (out.images.square().mean() + out.vq_loss + out.commit_loss).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in tokenizer.parameters())
    tokenizer.zero_grad()
    tokenizer.freeze_encoder()
    tokenizer(images).images.square().mean().backward()
    sides = tokenizer.encoder_parameters(), tokenizer.decoder_parameters()
    assert not any(p.requires_grad for p in sides[0]) and all(p.grad.any() for p in sides[1])
    assert tokenizer.last_layer is tokenizer.decoder.conv_out.weight
