"""The other published quantisers (XQ-GAN): product quantisation, residual multi-scale codes, and both.

The golden files are random weights in the published layout with outputs of the published code (XQ-GAN, in
tests/golden_peers/xqgan).
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from robustok import load_tokenizer
from robustok.convert import main as convert
from robustok.core.errors import UserError
from robustok.formats.pickles import read_pickled
from robustok.formats.robustok_release import to_released
from robustok.model_configs import TokenizerConfig
from robustok.models.interfaces import DiscreteTokenizer
from robustok.models.tokenizers.perturbation import Perturbation
from robustok.models.tokenizers.residual import ResidualQuantizer
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer

PEERS = Path(__file__).parents[1] / "golden_peers" / "xqgan"
BASE = TokenizerConfig(
    image_size=64,
    patch_size=16,
    width=32,
    depth=1,
    heads=2,
    decoder_width=32,
    decoder_depth=1,
    decoder_heads=2,
    drop_path=0.1,
    num_latents=9,
    codebook_size=24,
    code_width=4,
)
SHAPES = {
    "VP2": dict(codebooks=2),
    "MSVR": dict(scales=(1, 2, 2, 3), residual_convs=4),
    "MSVRP2": dict(scales=(1, 1, 2, 3, 3), residual_convs=4, codebooks=2),
    "shared": dict(scales=(1, 2, 3), residual_convs=1),
    "unshared": dict(scales=(1, 2, 3), residual_convs=3),
}


@pytest.fixture(params=SHAPES)
def tokenizer(request):
    torch.manual_seed(0)
    tokenizer = ViTTokenizer(dataclasses.replace(BASE, **SHAPES[request.param])).eval()
    for parameter in tokenizer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return tokenizer


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("name", ["vp2_tiny", "msvr10p2_tiny"])
@torch.no_grad()
def test_published_outputs(name, near):
    """Latents, indices, codes and images, of both sets of weights; margins of the indices are 1.7e-5 and more.

    Theirs have parts first: (Q, B, D, g, g) and (Q, B, T). The positions of these models are large, so that a mistake
    in resampling them to the latents' grid would show.
    """
    with np.load(PEERS / f"{name}_outputs.npz") as file:
        expected = {key: torch.from_numpy(np.array(value)) for key, value in file.items()}
    images = expected["images"] / 127.5 - 1
    for weights, prefix in (("model", "raw_"), ("ema", "")):
        tokenizer = load_tokenizer(PEERS / f"{name}.pt", weights, num_heads=4)
        near(tokenizer.encode(images), torch.cat(expected[f"{prefix}z"].flatten(3).mT.unbind(), -1))
        tokens = tokenizer.tokenize(images)
        assert torch.equal(tokens, expected[f"{prefix}indices"].permute(1, 2, 0))
    near(tokenizer.lookup(tokens), expected["quant"].flatten(2).mT)
    decoded = tokenizer.decode(tokenizer.lookup(tokens))
    near(decoded[:, :, 1::4, 2::4], expected["decoded_every_4th"])
    near(decoded.double().mean((2, 3)), expected["decoded_mean"])
    near(decoded.double().std((2, 3), correction=0), expected["decoded_std"])
    drawn = tokenizer.decode(tokenizer.lookup(expected["random_indices"].permute(1, 2, 0)))
    near(drawn[:, :, 1::4, 2::4], expected["decoded_random_every_4th"])


def test_published_file_and_back(tmp_path):
    """Through a folder of ours, the published tensors come back, but for counts of use, which are not kept.

    The semantic teacher is kept once; it is frozen, and only here, with random weights, another in each set.
    """
    for name in ("vp2_tiny", "msvr10p2_tiny"):
        convert([str(PEERS / f"{name}.pt"), str(tmp_path / name), "--num_heads", "4"])
        convert([str(tmp_path / name), str(tmp_path / f"{name}.pt"), "--to", "upstream"])
        before, after = (read_pickled(folder / f"{name}.pt") for folder in (PEERS, tmp_path))
        for weights in ("model", "ema"):
            assert before[weights].keys() == after[weights].keys()
            for key, tensor in before[weights].items():
                assert after[weights][key].shape == tensor.shape
                kept = "ema_vocab_hit" not in key and not (weights == "model" and key.startswith("semantic_model."))
                assert not kept or torch.equal(after[weights][key], tensor), key
        assert vars(before["args"]) == vars(after["args"])


def test_released_layout_and_back(tokenizer, images, tmp_path):
    """Every shape is recognised by its keys, gives the same images, and converts to ours and back."""
    args = argparse.Namespace(v_patch_nums=list(tokenizer.config.scales or [3]))
    teacher = {"norm.weight": torch.ones(32)}
    state = to_released(tokenizer.state_dict(), tokenizer.config, teacher)
    torch.save({"model": state, "ema": state, "args": args, "steps": 0}, tmp_path / "released.pt")
    convert([str(tmp_path / "released.pt"), str(tmp_path / "ours"), "--num_heads", "2"])
    for path in ("released.pt", "ours"):
        found = load_tokenizer(tmp_path / path, num_heads=2)
        assert found.config == tokenizer.config
        tokens = found.tokenize(images)
        assert torch.equal(tokens, tokenizer.tokenize(images))
        torch.testing.assert_close(found.detokenize(tokens), tokenizer.reconstruct(images))
    convert([str(tmp_path / "ours"), str(tmp_path / "back.pt"), "--to", "upstream"])
    back = torch.load(tmp_path / "back.pt", weights_only=False)["ema"]
    assert back.keys() == state.keys() and all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_interface(tokenizer, images):
    """What the rooms above ask of a discrete tokenizer, whatever its quantiser."""
    assert isinstance(tokenizer, DiscreteTokenizer)
    z, tokens = tokenizer.encode(images), tokenizer.tokenize(images)
    assert z.shape[1:] == tokenizer.latent_shape and tokenizer.num_latents == 9
    assert tokens.shape[1] == tokenizer.num_tokens == sum(s**2 for s in tokenizer.config.scales or [3])
    assert torch.equal(tokenizer.decode(tokenizer.lookup(tokens)).clamp(-1, 1), tokenizer.detokenize(tokens))
    assert tokenizer.perturbable == ("none" if tokenizer.config.scales else "itself")
    assert ViTTokenizer(BASE).perturbable == "codes"


def test_published_names():
    tokenizer = ViTTokenizer(dataclasses.replace(BASE, **SHAPES["MSVRP2"]))
    shapes = {name: tuple(t.shape) for name, t in to_released(tokenizer.state_dict(), tokenizer.config, {}).items()}
    expected = {
        "encoder.latent_tokens": (1, 18, 32),
        "encoder.lvl_embed.weight": (3, 32),
        "encoder.lvl1LC": (1, 17 + 18),
        "quantizes.1.embedding.weight": (24, 4),
        "quantizes.1.quant_resi.qresi_ls.3.weight": (4, 4, 3, 3),
        "quantizes.0.ema_vocab_hit_SV": (5, 24),
        "post_quant_conv.weight": (32, 8, 1, 1),
        "decoder.lvl1LC": (1, 17 + 10),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    shared = ViTTokenizer(dataclasses.replace(BASE, **SHAPES["shared"]))
    assert "quantize.quant_resi.qresi.weight" in to_released(shared.state_dict(), shared.config, {})


def test_product_quantisation(images):
    """Each half of the coordinates takes its nearest code; a token is the pair."""
    torch.manual_seed(0)
    tokenizer = ViTTokenizer(dataclasses.replace(BASE, codebooks=2)).eval()
    z, tokens = tokenizer.encode(images), tokenizer.tokenize(images)
    assert z.shape == (3, 9, 8) and tokens.shape == (3, 9, 2) and tokenizer.codebook.shape == (2, 24, 4)
    halves = []
    for q, half in enumerate(z.double().chunk(2, -1)):
        codes = F.normalize(tokenizer.codebook[q].double(), dim=1)
        nearest = (half @ codes.T).argmax(-1)
        assert torch.equal(tokens[..., q], nearest)
        halves.append(codes[nearest])
    out = tokenizer(images)
    torch.testing.assert_close(out.z_q.double(), torch.cat(halves, -1), atol=1e-6, rtol=0)
    unit = F.normalize(z.double().unflatten(-1, (2, 4)), dim=-1).flatten(2)
    assert out.vq_loss.item() == pytest.approx((torch.cat(halves, -1) - unit).square().mean().item(), rel=1e-5)
    assert out.usage.shape == (2, 24) and out.usage.sum() == tokens.numel()
    (out.images.mean() + out.vq_loss + out.commit_loss).backward()
    assert all(p.grad is not None for p in tokenizer.parameters())


def test_codebooks_are_perturbed_independently(images):
    tokenizer = ViTTokenizer(dataclasses.replace(BASE, codebooks=2)).eval()
    out = tokenizer(images.repeat(20, 1, 1, 1), perturbation=Perturbation(alpha=0.5, beta=1.0, delta=24, seed=5))
    changed = (out.indices != out.nearest).float().flatten(0, 1)
    assert changed.mean().item() == pytest.approx(0.5 * 23 / 24, abs=0.05)
    assert abs(np.corrcoef(changed.T.numpy())[0, 1]) < 0.15


def test_product_codes_are_perturbed_when_reconstructing(images):
    """Every code of every latent, by one of the nearest four; the images change, and are those of the seed."""
    torch.manual_seed(0)
    tokenizer = ViTTokenizer(dataclasses.replace(BASE, codebooks=2)).eval()
    found = tokenizer.reconstruct(images, alpha=1.0, delta=4, seed=7)
    assert torch.equal(found, tokenizer.reconstruct(images, alpha=1.0, delta=4, seed=7))
    assert not torch.equal(found, tokenizer.reconstruct(images, alpha=1.0, delta=4, seed=8))
    z, chosen = tokenizer.encode(images), Perturbation(alpha=1.0, beta=1.0, delta=4, seed=7)
    indices = tokenizer.quantizer.perturb(z, chosen).indices
    for q, half in enumerate(F.normalize(z.double().unflatten(-1, (2, 4)), dim=-1).unbind(2)):
        scores = half @ F.normalize(tokenizer.codebook[q].double(), dim=1).T
        places = (scores > scores.gather(-1, indices[..., q : q + 1])).sum(-1)  # codes nearer than the chosen one
        assert set(places.unique().tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(found, tokenizer.detokenize(indices))


def test_residual_codes_by_hand():
    """The definition, in float64 and in words: average, nearest by angle, enlarge, blend, subtract."""
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(24, 4, (1, 2, 3), 1).double()
    codes, z = torch.nn.init.normal_(quantizer.codebook.data), torch.randn(2, 9, 4, dtype=torch.float64)
    kernel, bias = quantizer.convs[0].weight, quantizer.convs[0].bias
    rest, total, tokens, losses = z.mT.reshape(2, 4, 3, 3), 0, [], []
    for scale in (1, 2, 3):
        # cells of a scale overlap where 3 is no multiple of it: rows floor(3 i / s) up to ceil(3 (i + 1) / s)
        spans = [(3 * i // scale, -(-3 * (i + 1) // scale)) for i in range(scale)]
        cells = torch.stack([rest[:, :, a:b, c:d].mean((2, 3)) for a, b in spans for c, d in spans], 1)
        angle = F.normalize(cells, dim=-1) @ F.normalize(codes, dim=-1).T
        tokens.append(angle.argmax(-1))
        grown = codes[tokens[-1]].mT.reshape(2, 4, scale, scale)
        grown = F.interpolate(grown, size=(3, 3), mode="bicubic") if scale < 3 else grown
        part = 0.5 * grown + 0.5 * F.conv2d(grown, kernel, bias, padding=1)
        rest, total = rest - part, total + part
        losses.append((total - z.mT.reshape(2, 4, 3, 3)).square().mean())
    quantizer.float()
    out = quantizer(z.float())
    assert torch.equal(out.indices, torch.cat(tokens, 1))
    torch.testing.assert_close(out.z_q.double(), total.flatten(2).mT, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(quantizer.lookup(out.indices), out.z_q, atol=1e-5, rtol=1e-5)
    assert out.vq_loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_which_convolution_a_scale_uses():
    """The published ten scales share four convolutions: 1 for the first three, and so on (ties as numpy rounds)."""
    quantizer = ResidualQuantizer(8, 2, (1, 1, 2, 3, 3, 4, 5, 6, 8, 11), 4)
    assert [quantizer._conv_of(i) for i in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert [ResidualQuantizer(8, 2, (1, 2, 3), 3)._conv_of(i) for i in range(3)] == [0, 1, 2]


def test_wrong_use(images, tmp_path):
    residual = ViTTokenizer(dataclasses.replace(BASE, **SHAPES["MSVR"]))
    with pytest.raises(ValueError, match="perturbation is not defined for residual"):
        residual.reconstruct(images, alpha=0.5, delta=3)
    with pytest.raises(ValueError, match=r"indices must be \(B, 18\), found"):
        residual.detokenize(torch.zeros(1, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"indices must end in 2, one a codebook, found \(1, 9\)"):
        ViTTokenizer(dataclasses.replace(BASE, codebooks=2)).detokenize(torch.zeros(1, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match="last of scales must be the latents' grid, 3"):
        ViTTokenizer(dataclasses.replace(BASE, scales=(1, 2)))
    torch.save(to_released(residual.state_dict(), residual.config, {}), tmp_path / "plain.pt")
    with pytest.raises(UserError, match=r"no args\.v_patch_nums to say which scales"):
        load_tokenizer(tmp_path / "plain.pt", num_heads=2)
