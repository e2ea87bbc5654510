"""Tokenizers behind the interface of diffusers' autoencoders: the same numbers, on a grid."""

import pytest
import torch

from robustok import as_autoencoder
from robustok.core.errors import UserError
from robustok.model_configs import ConvTokenizerConfig, ConvVAEConfig, MAETokConfig, TiTokConfig, TokenizerConfig
from robustok.models.registry import family_of

SIZES = dict(image_size=32, widths=(32, 32, 32), blocks=1)
VAE = ConvVAEConfig(**SIZES, latent_width=3, scaling_factor=0.5, shift_factor=0.25)
CODES = ConvTokenizerConfig(**SIZES, stem_width=32, attention=(), feature_width=32, codebook_size=7, code_width=4)
VIT = TokenizerConfig(image_size=32, patch_size=8, width=16, depth=1, heads=2, codebook_size=6, code_width=5)
PRODUCT = TokenizerConfig(
    image_size=32, patch_size=8, width=16, depth=1, heads=2, codebook_size=6, code_width=5, codebooks=2
)
SEQUENCE = dict(image_size=16, patch_size=8, width=16, depth=1, heads=2, num_latents=4)
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def built(config):
    torch.manual_seed(0)
    return family_of(config).build(config).eval()


@pytest.mark.parametrize("config", [VAE, CODES, VIT, PRODUCT], ids=["vae", "codes", "vit", "product"])
@torch.no_grad()
def test_the_same_latents_and_images(config):
    tokenizer = built(config)
    model, rows = as_autoencoder(tokenizer), tokenizer.encode(IMAGES)
    encoded = model.encode(IMAGES)
    channels, side = tokenizer.latent_shape[1], tokenizer.grid
    assert encoded.latents.shape == (2, channels, side, side) and model.config.latent_channels == channels
    for row in range(side):
        for column in range(side):
            assert torch.equal(encoded.latents[:, :, row, column], rows[:, row * side + column])
    for same in (encoded.latent_dist.mode(), encoded.latent_dist.sample(torch.Generator()), encoded.latent_dist.mean):
        assert torch.equal(same, encoded.latents)
    images = model.decode(encoded.latents).sample
    codes = hasattr(tokenizer, "tokenize")
    expected = tokenizer.detokenize(tokenizer.tokenize(IMAGES)) if codes else tokenizer.reconstruct(IMAGES)
    assert torch.equal(images.clamp(-1, 1), expected)
    assert torch.equal(model.decode(encoded.latents, return_dict=False)[0], images)
    assert torch.equal(model(IMAGES).sample, images)
    assert model.device == tokenizer.device and model.dtype == torch.float32


def test_scale_and_shift_are_those_of_the_published_file():
    config = as_autoencoder(built(VAE)).config
    assert (config.scaling_factor, config.shift_factor, config.sample_size) == (0.5, 0.25, 32)
    config = as_autoencoder(built(CODES)).config
    assert (config.scaling_factor, config.shift_factor) == (1.0, 0.0)


def test_the_tuple_holds_what_a_vqmodel_and_a_vae_put_there():
    assert torch.is_tensor(as_autoencoder(built(CODES)).encode(IMAGES, return_dict=False)[0])
    assert as_autoencoder(built(VAE)).encode(IMAGES, return_dict=False)[0].mode().shape == (2, 3, 8, 8)


@torch.no_grad()
def test_codes_are_not_looked_up_twice():
    tokenizer = built(CODES)
    model, codes = as_autoencoder(tokenizer), tokenizer.lookup(tokenizer.tokenize(IMAGES))
    z = codes.mT.unflatten(2, (8, 8))
    expected = tokenizer.decode(codes)
    assert torch.equal(model.decode(z, force_not_quantize=True).sample, expected)
    moved = model.encode(IMAGES).latents
    assert not torch.equal(model.decode(moved, force_not_quantize=True).sample, expected)


def test_gradients_pass_where_there_are_no_codes():
    x = IMAGES.clone().requires_grad_()
    as_autoencoder(built(VAE))(x).sample.sum().backward()
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize(
    "config",
    [
        MAETokConfig(**SEQUENCE, latent_width=2, targets=(), hidden=(0, 0)),
        TiTokConfig(**SEQUENCE, codebook_size=4, code_width=2, decoder_width=16, decoder_depth=1, decoder_heads=2),
    ],
    ids=["maetok", "titok"],
)
def test_a_sequence_is_no_grid(config):
    with pytest.raises(UserError, match=r"are a sequence of 4 x 2 and no grid \(C, H, W\)"):
        as_autoencoder(built(config))


def test_latents_of_another_shape():
    with pytest.raises(ValueError, match=r"z must be \(B, 3, 8, 8\), found \(2, 3, 4, 4\)"):
        as_autoencoder(built(VAE)).decode(torch.zeros(2, 3, 4, 4))
