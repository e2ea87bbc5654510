"""Convolutional tokenizers: taming VQGAN, LlamaGen VQ, IBQ and MaskGIT-VQGAN are settings of one class."""

import math

from torch import Tensor, nn

from ...core.sizes import area, say_size, sides
from ...model_configs import ConvTokenizerConfig
from ...ops.grid import from_grid, to_grid
from ..precision import in_float32
from .conv_layers import ConvDecoder, ConvEncoder, cell_grid, check_levels
from .quantized import QuantizedTokenizer
from .quantizer import CodeQuantizer


class ConvTokenizer(QuantizedTokenizer):
    """Images <-> a grid of tokens, row-major. Images are float (B, 3, H, W) in [-1, 1].

    H and W are of `image_size` for all that asks for no other, but the network has no table of positions: `encode` also
    takes squares of any multiple of `cell` pixels, the side of a latent, and `decode` any square number of latents.
    A network that was trained on another range of values (MaskGIT: [0, 1]) gets its own; outside it is always [-1, 1].
    Attributes: config; image_size; cell; grid (latents along one side, or rows and columns of them); num_latents =
    num_tokens, of the grid; codebook (K, D) as stored; similarity; perturbable.
    Raises: ValueError for sizes that do not fit together.
    """

    kind = "conv_tokenizer"

    def __init__(self, config: ConvTokenizerConfig):
        super().__init__()
        widths, decoder_widths = config.widths, config.decoder_widths or config.widths
        self.config, self.image_size, self.cell = config, config.image_size, 2 ** (len(widths) - 1)
        _check(config)
        self.grid = cell_grid(config.image_size, self.cell, ", the side of a latent")
        self.num_latents = self.num_tokens = area(self.grid)
        shape = dict(
            attention=config.attention,
            middle_blocks=config.middle_blocks,
            middle_attention=config.middle_attention,
            style=config.style,
        )
        features, D = config.feature_width, config.code_width
        self.encoder = ConvEncoder(
            widths=widths, stem_width=config.stem_width, blocks=config.blocks, out_channels=features, **shape
        )
        self.quant_conv = nn.Conv2d(features, D, 1) if config.projected else nn.Identity()
        self.quantizer = CodeQuantizer(config.codebook_size, D, config.similarity)
        self.post_quant_conv = nn.Conv2d(D, features, 1) if config.projected else nn.Identity()
        self.decoder = ConvDecoder(widths=decoder_widths, blocks=config.decoder_blocks, in_channels=features, **shape)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(L, D) of `encode`'s result for images of `image_size`."""
        return self.num_latents, self.config.code_width

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution: where the adaptive adversarial weight compares gradients."""
        return self.decoder.conv_out.weight

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> z (B, L, D), float32, not yet normalised, as it goes into the vq ops."""
        fits = images.ndim == 4 and images.shape[1] == 3 and self._takes(*images.shape[2:])
        if not fits or not images.is_floating_point():
            own = "" if isinstance(self.image_size, int) else f" or of {say_size(self.image_size)} pixels"
            expected = f"(B, 3, S, S) in [-1, 1] with S a multiple of {self.cell}{own}"
            raise ValueError(f"images must be floating point {expected}, found {images.dtype} {tuple(images.shape)}")
        images = images.to(self.dtype)
        low, high = self.config.value_range
        features = self.encoder(images if (low, high) == (-1, 1) else low + (images + 1) * ((high - low) / 2))
        return from_grid(in_float32(self.quant_conv, features))

    def _takes(self, height: int, width: int) -> bool:
        """Whether images of this size are encoded: its own, and squares, whose latents' grid `decode` knows again."""
        return sides(self.image_size) == (height, width) or (height == width and height % self.cell == 0)

    def decode(self, z_q: Tensor) -> Tensor:
        """z_q (B, L, D), on the scale of the codes -> images (B, 3, H, W), not clamped."""
        count = z_q.shape[1] if z_q.ndim == 3 else 0
        rows = sides(self.grid)[0] if count == self.num_latents else math.isqrt(count)
        if count == 0 or (count != self.num_latents and rows**2 != count) or z_q.shape[2] != self.config.code_width:
            expected = f"(B, L, {self.config.code_width}) with L a square number, {self.num_latents} as a rule"
            raise ValueError(f"z_q must be {expected}, found {tuple(z_q.shape)}")
        # Rows of latents are a map with channels last, whose group normalisation rounds several times worse on a CPU.
        images = self.decoder(self.post_quant_conv(to_grid(z_q.to(self.dtype), rows)))
        low, high = self.config.value_range
        return images if (low, high) == (-1, 1) else (images - low) * (2 / (high - low)) - 1

    def encoder_side(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.quant_conv, self.quantizer

    def decoder_side(self) -> tuple[nn.Module, ...]:
        return self.post_quant_conv, self.decoder


def _check(config: ConvTokenizerConfig) -> None:
    check_levels(config.widths, config.decoder_widths)
    if not config.projected and config.feature_width != config.code_width:
        found = f"{config.feature_width} and {config.code_width}"
        raise ValueError(f"without projection feature_width must be code_width, found {found}")
    low, high = config.value_range
    if not low < high:
        raise ValueError(f"value_range must be (low, high) with low < high, found {config.value_range}")
