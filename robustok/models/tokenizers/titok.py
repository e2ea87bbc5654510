"""TiTok (arXiv 2406.07550): discrete tokenizers whose tokens are a sequence, no grid.

Single-stage ones decode the outputs at mask tokens as pixels of patches, which a convolution over the whole image
follows. Two-stage ones decode them as probabilities of a MaskGIT-VQGAN's codes: each place gets the mean of these
codes, and the VQGAN's convolutional decoder makes the image (section 3.3 there).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...model_configs import TiTokConfig
from ..precision import in_float32
from ..vit import join_patches, only_squares, patch_grid
from .conv_layers import ConvDecoder
from .quantized import QuantizedTokenizer
from .quantizer import CodeQuantizer
from .sequence_network import SequenceDecoder, SequenceEncoder

NORM_EPS = 1e-5  # of every norm of its transformers


class PatchPixels(nn.Module):
    """Outputs (B, grid**2, 3 * p * p) -> images (B, 3, grid * p, grid * p)."""

    def __init__(self, grid: int):
        super().__init__()
        self.grid = grid
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(join_patches(x, self.grid))


class CodePixels(nn.Module):
    """Outputs (B, grid**2, inputs) -> images, through probabilities of pixel codes; differentiable all through."""

    def __init__(self, grid: int, inputs: int, config: TiTokConfig):
        super().__init__()
        self.grid = grid
        self.logits = nn.Linear(inputs, config.pixel_codes)
        self.codebook = nn.Parameter(torch.randn(config.pixel_codes, config.pixel_code_width))
        self.decoder = ConvDecoder(
            widths=config.pixel_widths,
            blocks=config.pixel_blocks,
            attention=(),
            middle_blocks=config.pixel_middle_blocks,
            middle_attention=False,
            in_channels=config.pixel_code_width,
            style="maskgit",
        )

    @property
    def last_layer(self) -> nn.Parameter:
        return self.decoder.conv_out.weight

    def forward(self, x: Tensor) -> Tensor:
        probabilities = self.logits(torch.tanh(x)).softmax(-1)
        features = (probabilities @ self.codebook).mT.contiguous()  # as a map with channels first: see ConvTokenizer
        return self.decoder(features.unflatten(2, (self.grid, self.grid)))


class TiTok(QuantizedTokenizer):
    """Images <-> a sequence of L tokens. Images are float (B, 3, S, S) in [-1, 1]; S = `image_size`.

    Its networks work on [0, 1]; outside it is always [-1, 1].
    Post-training trains the decoder side: the transformer over mask tokens, and what makes pixels of its outputs. In a
    two-stage tokenizer that is the layer of logits, the pixel codes and the convolutional decoder; gradients reach all
    of them, and the latents, since pixel codes are averaged and none is picked.
    Attributes: config; image_size; num_latents = num_tokens = L; codebook (K, D) as stored; similarity; perturbable.
    Raises: ValueError for sizes that do not fit together.
    """

    kind = "titok"

    def __init__(self, config: TiTokConfig):
        super().__init__()
        decoder_patch = config.decoder_patch_size or config.patch_size
        _check(config, decoder_patch)
        self.config, self.image_size = config, config.image_size
        self.num_latents = self.num_tokens = config.num_latents
        shape = dict(mlp_ratio=config.mlp_ratio, layer_scale=None, drop_path=0.0, first_norm=True, norm_eps=NORM_EPS)
        self.encoder = SequenceEncoder(
            config.num_latents,
            patch_size=config.patch_size,
            width=config.width,
            grid=config.image_size // config.patch_size,
            depth=config.depth,
            heads=config.heads,
            **shape,
        )
        self.quant_conv = nn.Linear(config.width, config.code_width)
        self.quantizer = CodeQuantizer(config.codebook_size, config.code_width, config.similarity)
        width, grid = config.decoder_width or config.width, config.image_size // decoder_patch
        outputs = 2 * width if self.two_stage else 3 * decoder_patch**2
        self.decoder = SequenceDecoder(
            self.latent_shape,
            outputs,
            width=width,
            grid=grid,
            depth=config.decoder_depth or config.depth,
            heads=config.decoder_heads or config.heads,
            table=True,
            **shape,
        )
        self.pixels = CodePixels(grid, outputs, config) if self.two_stage else PatchPixels(grid)

    @property
    def two_stage(self) -> bool:
        """Whether the decoder predicts codes of another tokenizer, which make the image."""
        return self.config.pixel_widths is not None

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(L, D) of `encode`'s result."""
        return self.config.num_latents, self.config.code_width

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution: where the adaptive adversarial weight compares gradients."""
        return self.pixels.last_layer

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) -> z (B, L, D), float32, not yet normalised, as it goes into the vq ops."""
        images = self.checked_images(images)
        features = self.encoder((images + 1) / 2)
        if self.two_stage:  # were trained with outputs (L, width) read as (width, L), which mixes tokens and channels
            features = features.reshape(features.shape[0], self.config.width, self.num_latents).mT
        return in_float32(self.quant_conv, features)

    def decode(self, z_q: Tensor) -> Tensor:
        """z_q (B, L, D), on the scale of the codes -> images (B, 3, S, S), not clamped."""
        return 2 * self.pixels(self.decoder(self.checked_latents(z_q, "z_q"))) - 1

    def encoder_side(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.quant_conv, self.quantizer

    def decoder_side(self) -> tuple[nn.Module, ...]:
        return self.decoder, self.pixels


def _check(config: TiTokConfig, decoder_patch: int) -> None:
    size = only_squares(config.image_size, "a titok")
    patch_grid(size, config.patch_size)
    patch_grid(size, decoder_patch, "decoder_patch_size")
    if config.pixel_widths is not None and 2 ** (len(config.pixel_widths) - 1) != decoder_patch:
        expected = f"as many levels as make {decoder_patch} pixels of a place"
        raise ValueError(f"pixel_widths must have {expected}, found {len(config.pixel_widths)}")
