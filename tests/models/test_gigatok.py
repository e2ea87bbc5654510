"""GigaTok against outputs of the published code (182920c), and other sizes.

The golden weights are random numbers of a recipe, under the published names and shapes (tests/golden_peers/gigatok).
"""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustok import load_tokenizer
from robustok.checkpoints.checkpoint import Checkpoint
from robustok.convert import main as convert
from robustok.core.errors import UserError
from robustok.evaluation.perturbing import perturbed_images
from robustok.formats.gigatok import GIGATOK
from robustok.model_configs import GigaTokConfig
from robustok.models.interfaces import DiscreteTokenizer
from robustok.models.tokenizers.conv_layers import SpaceFromDepth
from robustok.models.tokenizers.gigatok import GigaTok
from robustok.models.tokenizers.query_transformer import ReadingAttention, nested_averages

PEERS = Path(__file__).parents[1] / "golden_peers" / "gigatok"
SMALL = GigaTokConfig(
    **dict(image_size=16, widths=(32, 64, 32), decoder_widths=(64, 32, 96), stem_width=64, blocks=1, decoder_blocks=2),
    **dict(feature_width=32, width=24, depth=2, heads=3, decoder_width=36, decoder_depth=4, decoder_heads=3),
    **dict(num_latents=8, codebook_size=40, code_width=6, semantic_width=10),
)


def recipe(name: str, shape: list[int]) -> torch.Tensor:
    """A tensor of the golden data's recipe."""
    if name == "quantize.codebook_used":
        return torch.zeros(shape)
    values = np.random.Generator(np.random.PCG64(zlib.crc32(f"gigatok/{name}".encode()))).standard_normal(shape)
    if name != "quantize.embedding.weight" and "positional_embedding" not in name:
        if len(shape) > 1:
            values /= np.sqrt(np.prod(shape[1:]))
        else:
            values = 0.1 * values + name.endswith(".weight")
    return torch.from_numpy(values.astype(np.float32))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file in the published layout with the recipe's weights."""
    keys = json.loads((PEERS / "gigatok_tiny_recipe_keys.json").read_text())["keys"]
    path = tmp_path_factory.mktemp("gigatok") / "published.pt"
    torch.save({"model": {name: recipe(name, entry["shape"]) for name, entry in keys.items()}}, path)
    return path


@torch.no_grad()
def test_published_outputs(published, near):
    """Every part in turn; margins of the indices are 2.7e-3 and more."""
    with np.load(PEERS / "gigatok_tiny_recipe_outputs.npz") as file:
        expected = {key: torch.from_numpy(np.array(value)) for key, value in file.items()}
    tokenizer = load_tokenizer(published)
    assert (tokenizer.image_size, tokenizer.latent_shape, tokenizer.similarity) == (256, (64, 8), "cosine")
    seen = {}
    tokenizer.to_tokens.register_forward_hook(lambda _, inputs, out: seen.update(features=inputs[0], tokens=out))
    z = tokenizer.encode(expected["image_uint8"] / 127.5 - 1)
    near(seen["features"][:, :, ::4, ::4], expected["spatial_encoder_feature_sub"])
    near(seen["tokens"], expected["encoder_tokens"][:, :, 0].mT)
    near(z, expected["pre_quant"][:, :, 0].mT)
    indices = tokenizer.quantizer.nearest(z)
    assert torch.equal(indices.flatten(), expected["indices"])
    z_q = tokenizer.lookup(indices)
    near(tokenizer.to_grid(tokenizer.post_quant_conv(z_q))[:, :, ::4, ::4], expected["decoder_spatial_sub"])
    near(tokenizer.semantic_features(z_q)[:, ::16, ::16], expected["inner_feature_sub"])
    decoded = tokenizer.decode(z_q)
    near(decoded[..., ::5, ::5], expected["decode_code_stride5"])
    near(decoded[..., 100:132, 96:128], expected["decode_code_crop"])
    near(decoded.double().mean((2, 3)), expected["decode_code_mean"])
    near(decoded.double().std((2, 3), correction=0), expected["decode_code_std"])


def test_conversion_and_back(published, tmp_path):
    """A folder of ours, and a file of theirs again with the names and tensors that it came with."""
    convert([str(published), str(tmp_path / "ours")])
    convert([str(tmp_path / "ours"), str(tmp_path / "theirs.pt"), "--to", "upstream"])
    assert load_tokenizer(tmp_path / "ours").config == load_tokenizer(published).config
    before, after = (torch.load(path, weights_only=True)["model"] for path in (published, tmp_path / "theirs.pt"))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def random_tokenizer(config: GigaTokConfig) -> GigaTok:
    """No weight is zero or one, so that each of them counts."""
    torch.manual_seed(0)
    tokenizer = GigaTok(config).eval()
    for parameter in tokenizer.parameters():
        nn.init.normal_(parameter, std=0.2)
    return tokenizer


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_latents": 1, "semantic_width": None, "mlp_ratio": 2.0},
        {"num_latents": 32, "decoder_widths": None, "depth": 1, "image_size": 16},
        {"widths": (32, 64), "decoder_widths": None, "image_size": 12, "num_latents": 8, "code_width": 9},
    ],
)
def test_other_sizes_survive_the_published_layout(changes, tmp_path):
    """Written there and read back, with the sizes off the tensors: the same settings, tokens and images."""
    config = replace(SMALL, **changes)
    tokenizer = random_tokenizer(config)
    weights = {"ema": tokenizer.state_dict(), "model": GigaTok(config).state_dict()}
    torch.save(GIGATOK.write(Checkpoint(tmp_path, "", config, weights)), tmp_path / "theirs.pt")
    found = load_tokenizer(tmp_path / "theirs.pt", num_heads=3)
    assert found.config == config
    images = torch.rand(2, 3, config.image_size, config.image_size) * 2 - 1
    tokens = found.tokenize(images)
    assert tokens.shape == (2, config.num_latents) and torch.equal(tokens, tokenizer.tokenize(images))
    assert torch.equal(found.encode(images), tokenizer.encode(images))
    assert torch.equal(found.detokenize(tokens), tokenizer.detokenize(tokens))


def test_first_queries_are_averages_of_nested_blocks():
    """Written out for a 4x4 map: the whole twice, two halves side by side, four quarters, eight upright pairs."""
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    spans = [(slice(0, 4), slice(0, 4))] * 2
    spans += [(slice(0, 4), slice(x, x + 2)) for x in (0, 2)]
    spans += [(slice(y, y + 2), slice(x, x + 2)) for y in (0, 2) for x in (0, 2)]
    spans += [(slice(y, y + 2), slice(x, x + 1)) for y in (0, 2) for x in range(4)]
    expected = torch.stack([maps[:, :, rows, columns].mean((2, 3)) for rows, columns in spans], 1)
    torch.testing.assert_close(nested_averages(maps, 16), expected)


def test_reading_attention_is_the_packed_one_of_torch():
    """Positions count for queries and keys alone."""
    ours, theirs = ReadingAttention(12, 3).double(), nn.MultiheadAttention(12, 3, batch_first=True).double()
    theirs.load_state_dict(
        {
            **{f"in_proj_{name}": tensor for name, tensor in ours.qkv.state_dict().items()},
            **{f"out_proj.{name}": tensor for name, tensor in ours.proj.state_dict().items()},
        }
    )
    x, positions = torch.randn(2, 5, 12).double(), torch.randn(5, 12).double()
    read, read_positions = torch.randn(2, 7, 12).double(), torch.randn(7, 12).double()
    expected = theirs(x + positions, read + read_positions, read, need_weights=False)[0]
    torch.testing.assert_close(ours(x, positions, read, read_positions), expected)


def test_space_from_depth():
    """Value by value: a place in the 2x2 block counts more than a channel."""
    layer = SpaceFromDepth(3).double()
    x = torch.randn(1, 3, 2, 5, dtype=torch.float64)
    deep, found = F.conv2d(x, layer.conv.weight, layer.conv.bias, padding=1), layer(x)
    for c, row, column in np.ndindex(3, 4, 10):
        place = 2 * (row % 2) + column % 2
        assert found[0, c, row, column] == deep[0, 3 * place + c, row // 2, column // 2]


def test_training_forward_and_perturbation():
    """Gradients reach both sides, and the decoder alone once the encoder is frozen; the semantic head never learns."""
    tokenizer = random_tokenizer(SMALL)
    assert isinstance(tokenizer, DiscreteTokenizer) and tokenizer.perturbable == "codes"
    assert not any(p.requires_grad for p in tokenizer.semantic_head.parameters())
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    out = tokenizer.train()(images)
    (out.images.square().mean() + out.vq_loss + out.commit_loss).backward()
    learning = {name for name, p in tokenizer.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning == {name for name, _ in tokenizer.named_parameters() if not name.startswith("semantic_head.")}
    tokenizer.zero_grad()
    tokenizer.freeze_encoder()
    tokenizer(images).images.square().mean().backward()
    learning = {name for name, p in tokenizer.named_parameters() if p.grad is not None}
    sides = ("post_quant_conv.", "to_grid.", "decoder.")
    assert learning == {name for name, _ in tokenizer.named_parameters() if name.startswith(sides)}
    assert not any(p.requires_grad for p in tokenizer.encoder_parameters())
    assert tokenizer.last_layer is tokenizer.decoder.conv_out.weight and tokenizer.last_layer.grad.any()


@torch.no_grad()
def test_pfid_perturbs_its_codes():
    tokenizer, images = random_tokenizer(SMALL), torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    settings = [(0.0, 1), (1.0, 5)]
    (_, clean), (_, changed) = perturbed_images(tokenizer, images, settings, 0, torch.arange(2))
    assert clean.shape == images.shape and not torch.equal(clean, changed)


def test_what_does_not_fit_is_named(tmp_path):
    tokenizer = random_tokenizer(SMALL)
    state = GIGATOK.write(Checkpoint(tmp_path, "", SMALL, {"ema": tokenizer.state_dict()}))["model"]

    def file_of(content: dict) -> Path:
        torch.save({"model": content}, tmp_path / "some.pt")
        return tmp_path / "some.pt"

    with pytest.raises(UserError, match="give num_heads"):
        load_tokenizer(file_of(state))
    with pytest.raises(UserError, match="image_size: given 32, but the file says 16"):
        load_tokenizer(file_of(state), num_heads=3, image_size=32)
    with pytest.raises(UserError, match="similarity: given l2, but the file says cosine"):
        load_tokenizer(file_of(state), num_heads=3, similarity="l2")
    with pytest.raises(UserError, match=r"1 unexpected: .*unheard_of"):
        load_tokenizer(file_of(state | {"s2to1encoder.unheard_of": torch.zeros(1)}), num_heads=3)
    with pytest.raises(UserError, match=r"recognised as GigaTok .* 1 missing: s1to2decoder\.positional_embedding"):
        load_tokenizer(file_of({k: v for k, v in state.items() if k != "s1to2decoder.positional_embedding"}))
    with pytest.raises(UserError, match=r"nearest is .*the GigaTok tokenizer, but it has no decoder\.adaptive\.0"):
        load_tokenizer(file_of({k: v for k, v in state.items() if "adaptive" not in k}))
    with pytest.raises(ValueError, match=r"z_q must be \(B, 8, 6\), found \(1, 8, 5\)"):
        tokenizer.decode(torch.zeros(1, 8, 5))
    with pytest.raises(ValueError, match=r"images must be floating point \(B, 3, 16, 16\)"):
        tokenizer.encode(torch.zeros(1, 3, 12, 12))
    with pytest.raises(ValueError, match="no head for semantic features"):
        GigaTok(replace(SMALL, semantic_width=None)).semantic_features(torch.zeros(1, 8, 6))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_latents": 12}, r"num_latents must be one of \[1, 2, 4, 8, 16, 32\] for this grid, found 12"),
        ({"image_size": 18}, "image_size must be a multiple of 4, a place of the grid, found 18"),
        ({"decoder_widths": (32,)}, "as many levels as each other, found 3 and 1"),
        ({"heads": 5}, "heads must divide width"),
    ],
)
def test_sizes_that_do_not_fit(wrong, message):
    with pytest.raises(ValueError, match=message):
        GigaTok(replace(SMALL, **wrong))
