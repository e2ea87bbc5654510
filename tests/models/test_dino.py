"""DINO weights in every published layout, resampled as timm does it; teacher and start of the tokenizer."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from robustok.core.errors import UserError
from robustok.formats.dino import resample_patches
from robustok.model_configs import TokenizerConfig
from robustok.models.frozen.dino import ViTSize, load_backbone, load_teacher
from robustok.models.tokenizers.tuning import start_from_dinov2
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.models.vit import DropPath, ViT, resample_positions

CONFIG = TokenizerConfig(image_size=64, patch_size=16, width=32, depth=2, heads=2, codebook_size=16, code_width=4)


@pytest.fixture(scope="module")
def dinov2() -> dict[str, torch.Tensor]:
    """A small DINOv2 as published: patches of 14, positions of a 5 x 5 grid, LayerScale; timm's keys."""
    torch.manual_seed(0)
    vit = ViT(grid=5, patch_size=14, width=32, depth=2, heads=2, layer_scale=1.0)
    return {name: torch.randn_like(tensor) * 0.2 for name, tensor in vit.state_dict().items()}


def as_hugging_face(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights under the names of Dinov2Model."""
    renamed = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            layer, kind = name.split(".")[1], name.split(".")[-1]
            for part, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"encoder.layer.{layer}.attention.attention.{part}.{kind}"] = value
            continue
        for ours, theirs in {
            "blocks.": "encoder.layer.",
            "attn.proj": "attention.output.dense",
            "ls1.gamma": "layer_scale1.lambda1",
            "ls2.gamma": "layer_scale2.lambda1",
            "pos_embed": "embeddings.position_embeddings",
            "cls_token": "embeddings.cls_token",
            "patch_embed.proj": "embeddings.patch_embeddings.projection",
        }.items():
            name = name.replace(ours, theirs)
        renamed["layernorm" + name.removeprefix("norm") if name.startswith("norm.") else name] = tensor
    return renamed | {"embeddings.mask_token": torch.zeros(1, 32)}


@pytest.fixture(params=["timm", "original", "Hugging Face", "Hugging Face with head"])
def path(request, dinov2, tmp_path):
    states = {
        "timm": dinov2,
        "original": dinov2 | {"mask_token": torch.zeros(1, 32)},
        "Hugging Face": as_hugging_face(dinov2),
        "Hugging Face with head": {f"dinov2.{name}": t for name, t in as_hugging_face(dinov2).items()}
        | {"classifier.weight": torch.zeros(10, 64)},
    }
    torch.save(states[request.param], tmp_path / "dinov2.pth")
    return tmp_path / "dinov2.pth"


def test_teacher_from_every_layout(path, dinov2, near):
    """The class feature of an independently written forward on the resampled weights, with ImageNet normalisation."""
    teacher = load_teacher(path, CONFIG)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((images * 0.5 + 0.5) - mean[:, None, None]) / std[:, None, None]
    near(teacher(images), naive_vit(x.double(), dinov2, heads=2)[:, 0], 1e-4)
    assert teacher.width == 32 and not any(p.requires_grad for p in teacher.parameters())


def naive_vit(images, state, heads):
    """A ViT written from its equations, in float64; patches of 16 and a 4 x 4 grid by independent resampling."""
    p = {name: tensor.double() for name, tensor in state.items()}
    weight = resample_patches(state["patch_embed.proj.weight"], 16).double()
    patches = images.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    x = patches @ weight.flatten(1).T + p["patch_embed.proj.bias"]
    grid = p["pos_embed"][0, 1:].T.reshape(1, -1, 5, 5)
    grid = F.interpolate(grid, size=(4, 4), mode="bicubic", antialias=True)[0].flatten(1).T
    x = torch.cat([p["cls_token"].expand(len(x), -1, -1) + p["pos_embed"][:, :1], x + grid], dim=1)

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * p[name + ".weight"] + p[name + ".bias"]
        )

    def linear(x, name):
        return x @ p[name + ".weight"].T + p[name + ".bias"]

    for i in range(2):
        block = f"blocks.{i}."
        q, k, v = linear(norm(x, block + "norm1"), block + "attn.qkv").chunk(3, dim=-1)
        out = []
        for part in torch.arange(32).chunk(heads):
            scores = q[..., part] @ k[..., part].mT / len(part) ** 0.5
            out.append(scores.softmax(-1) @ v[..., part])
        x = x + p[block + "ls1.gamma"] * linear(torch.cat(out, -1), block + "attn.proj")
        hidden = linear(norm(x, block + "norm2"), block + "mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = x + p[block + "ls2.gamma"] * linear(hidden, block + "mlp.fc2")
    return norm(x, "norm")


def test_start_of_encoder_and_decoder(path, dinov2):
    tokenizer = ViTTokenizer(CONFIG)
    latents = tokenizer.encoder.latent_tokens.clone()
    start_from_dinov2(tokenizer, path)
    for vit in (tokenizer.encoder.vit, tokenizer.decoder.vit):
        assert torch.equal(vit.blocks[1].attn.qkv.weight, dinov2["blocks.1.attn.qkv.weight"])
        assert torch.equal(vit.pos_embed, resample_positions(dinov2["pos_embed"], 4))
    assert torch.equal(tokenizer.encoder.latent_tokens, latents)
    assert tokenizer.encoder.vit.patch_embed.proj.weight.shape == (32, 3, 16, 16)


@pytest.mark.parametrize("size", [16, 20])
def test_resampled_kernels_see_what_they_saw(size):
    """On an enlarged patch the new kernel gives what the old one gave on the patch itself (FlexiViT, eq. 5)."""
    weight, patch = torch.randn(5, 3, 14, 14), torch.randn(1, 3, 14, 14)
    enlarged = F.interpolate(patch, size=(size, size), mode="bicubic", antialias=True)
    expected = (weight * patch).sum((1, 2, 3))
    found = (resample_patches(weight, size) * enlarged).sum((1, 2, 3))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def test_resampling_equals_timm():
    layers = pytest.importorskip("timm.layers")
    weight, table = torch.randn(4, 3, 14, 14), torch.randn(1, 1 + 37 * 37, 8)
    for size in (16, 8):
        expected = layers.resample_patch_embed(weight, [size, size])
        torch.testing.assert_close(resample_patches(weight, size), expected, atol=2e-5, rtol=0)
    for grid in (16, 24, 37):
        expected = layers.resample_abs_pos_embed(table, [grid, grid], num_prefix_tokens=1)
        torch.testing.assert_close(resample_positions(table, grid), expected, atol=1e-6, rtol=0)


def test_published_layout_equals_timm(dinov2, near, tmp_path):
    """timm's own DINOv2 builder, loader and forward, at another patch size and grid."""
    models = pytest.importorskip("timm.models")
    vit = models.create_model(
        "vit_small_patch14_dinov2.lvd142m", img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=2
    )
    vit.load_state_dict(models.vision_transformer.checkpoint_filter_fn(dict(dinov2), vit))
    torch.save(dinov2, tmp_path / "dinov2.pth")
    teacher = load_teacher(tmp_path / "dinov2.pth", CONFIG)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        near(teacher(images), vit.eval()(teacher.normalize(images)), 1e-4)


def test_other_networks_are_refused(dinov2, tmp_path, golden_path):
    path = tmp_path / "w.pth"

    def saved(state):
        torch.save(state, path)
        return path

    with pytest.raises(UserError, match="width 32; expected 64, as the tokenizer's encoder"):
        load_teacher(saved(dinov2), dataclasses.replace(CONFIG, width=64))
    with pytest.raises(UserError, match="with register tokens"):
        load_teacher(saved(dinov2 | {"register_tokens": torch.zeros(1, 4, 32)}), CONFIG)
    with pytest.raises(UserError, match="gated MLP"):
        load_teacher(saved(dinov2 | {"blocks.0.mlp.w12.weight": torch.zeros(1)}), CONFIG)
    with pytest.raises(UserError, match=r"no DINO weights: .* found conv"):
        load_teacher(saved({"conv": torch.zeros(1)}), CONFIG)
    with pytest.raises(UserError, match=r"DINOv2 for the encoder.*28 missing: blocks\.2\.") as error:
        start_from_dinov2(ViTTokenizer(dataclasses.replace(CONFIG, depth=4)), saved(dinov2))
    assert "and 18 more" in str(error.value)
    with pytest.raises(UserError, match="does not exist"):
        load_teacher(tmp_path / "nowhere.pth", CONFIG)


def test_discriminator_backbone_of_another_size(golden_path):
    with pytest.raises(UserError, match=r"DINO of width 32; expected ViT/16 of width 384, depth 12"):
        load_backbone(golden_path / "disc_backbone.safetensors")
    with pytest.raises(UserError, match="of another shape"):
        load_backbone(golden_path / "disc_backbone.safetensors", ViTSize(64, 4, 2, (0, 2, 3)))


def test_stochastic_depth():
    """In training a sample's branch is dropped with the given probability, else scaled; in evaluation it is kept."""
    torch.manual_seed(0)
    x, drop = torch.ones(4000, 2, 3), DropPath(0.25)
    values = drop(x)
    assert ((values == 0) | (values == 1 / 0.75)).all() and (values == values[:, :1, :1]).all()
    assert (values[:, 0, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(drop.eval()(x), x)
    rates = [
        block.drop_path.rate for block in ViT(grid=2, patch_size=4, width=8, depth=5, heads=2, drop_path=0.1).blocks
    ]
    assert rates == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
