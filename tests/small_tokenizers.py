"""A small tokenizer of every family, of images of 16 x 16 pixels; all parameters are random."""

from dataclasses import replace

import torch

from robustok.model_configs import (
    ConvTokenizerConfig,
    ConvVAEConfig,
    GigaTokConfig,
    MAETokConfig,
    TiTokConfig,
    TokenizerConfig,
)
from robustok.models.registry import family_of
from tests.conftest import with_random_parameters

NETWORK = {"patch_size": 8, "width": 32, "depth": 1, "heads": 2}
CODES = {"codebook_size": 32, "code_width": 4}
CONVOLUTIONS = {"widths": (32, 32), "stem_width": 32, "blocks": 1, "decoder_blocks": 1, "feature_width": 32}
SEQUENCE = {**NETWORK, "num_latents": 4}
VIT = TokenizerConfig(16, **NETWORK, **CODES, layer_scale=None)
CONFIGS = {
    "vit": VIT,
    "two codebooks": replace(VIT, codebooks=2),
    "residual": replace(VIT, scales=(1, 2), residual_convs=1),
    "convolutional": ConvTokenizerConfig(16, **CONVOLUTIONS, **CODES, attention=(1,)),
    "gigatok": GigaTokConfig(
        16,
        **CONVOLUTIONS,
        **CODES,
        width=16,
        depth=1,
        heads=2,
        decoder_width=16,
        decoder_depth=1,
        decoder_heads=2,
        num_latents=4,
        semantic_width=None,
    ),
    "titok": TiTokConfig(16, **SEQUENCE, **CODES, decoder_width=32, decoder_depth=1, decoder_heads=2),
    "vae": ConvVAEConfig(16, widths=(32, 32), blocks=1),
    "maetok": MAETokConfig(
        16, **SEQUENCE, latent_width=4, rotary=True, decoder_class_token=False, targets=(), hidden=(0.0, 0.0)
    ),
}


def small_tokenizer(name: str) -> torch.nn.Module:
    """Of CONFIGS, in evaluation mode."""
    torch.manual_seed(0)
    return with_random_parameters(family_of(CONFIGS[name]).build(CONFIGS[name]), 0.1)
