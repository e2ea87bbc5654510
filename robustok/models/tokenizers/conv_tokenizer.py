"""Convolutional tokenizers: taming VQGAN, LlamaGen VQ, IBQ and MaskGIT-VQGAN are settings of one class."""

from torch import Tensor, nn

from ...model_configs import ConvTokenizerConfig
from ...ops.grid import from_grid, to_grid
from ..precision import in_float32
from .conv_layers import ConvDecoder, ConvEncoder, check_cells, check_levels
from .quantized import QuantizedTokenizer
from .quantizer import CodeQuantizer


class ConvTokenizer(QuantizedTokenizer):
    """Images <-> a grid of tokens, row-major. Images are float (B, 3, S, S) in [-1, 1].

    S is `image_size` for all that asks for no other, but the network has no table of positions: `encode` takes squares
    of any multiple of `cell` pixels, the side of a latent, and `decode` any square number of latents.
    A network that was trained on another range of values (MaskGIT: [0, 1]) gets its own; outside it is always [-1, 1].
    Attributes: config; image_size; cell; grid (latents along one side); num_latents = num_tokens = grid**2; codebook
    (K, D) as stored; similarity; perturbable.
    Raises: ValueError for sizes that do not fit together.
    """

    kind = "conv_tokenizer"

    def __init__(self, config: ConvTokenizerConfig):
        super().__init__()
        widths, decoder_widths = config.widths, config.decoder_widths or config.widths
        self.config, self.image_size, self.cell = config, config.image_size, 2 ** (len(widths) - 1)
        _check(config, self.cell)
        self.grid = config.image_size // self.cell
        self.num_latents = self.num_tokens = self.grid**2
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
        """Images (B, 3, S, S) -> z (B, L, D), float32, not yet normalised, as it goes into the vq ops."""
        sides = images.shape[2:]
        fits = images.ndim == 4 and images.shape[1] == 3 and sides[0] == sides[1] and sides[0] % self.cell == 0
        if not fits or not images.is_floating_point():
            expected = f"(B, 3, S, S) in [-1, 1] with S a multiple of {self.cell}"
            raise ValueError(f"images must be floating point {expected}, found {images.dtype} {tuple(images.shape)}")
        images = images.to(self.dtype)
        low, high = self.config.value_range
        features = self.encoder(images if (low, high) == (-1, 1) else low + (images + 1) * ((high - low) / 2))
        return from_grid(in_float32(self.quant_conv, features))

    def decode(self, z_q: Tensor) -> Tensor:
        """z_q (B, L, D), on the scale of the codes -> images (B, 3, S, S), not clamped."""
        grid = round(z_q.shape[1] ** 0.5) if z_q.ndim == 3 else 0
        if z_q.ndim != 3 or grid**2 != z_q.shape[1] or z_q.shape[2] != self.config.code_width:
            expected = f"(B, L, {self.config.code_width}) with L a square number, {self.num_latents} as a rule"
            raise ValueError(f"z_q must be {expected}, found {tuple(z_q.shape)}")
        # Rows of latents are a map with channels last, whose group normalisation rounds several times worse on a CPU.
        images = self.decoder(self.post_quant_conv(to_grid(z_q.to(self.dtype), grid)))
        low, high = self.config.value_range
        return images if (low, high) == (-1, 1) else (images - low) * (2 / (high - low)) - 1

    def encoder_side(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.quant_conv, self.quantizer

    def decoder_side(self) -> tuple[nn.Module, ...]:
        return self.post_quant_conv, self.decoder


def _check(config: ConvTokenizerConfig, cell: int) -> None:
    check_levels(config.widths, config.decoder_widths)
    check_cells(config.image_size, cell, ", the side of a latent")
    if not config.projected and config.feature_width != config.code_width:
        found = f"{config.feature_width} and {config.code_width}"
        raise ValueError(f"without projection feature_width must be code_width, found {found}")
    low, high = config.value_range
    if not low < high:
        raise ValueError(f"value_range must be (low, high) with low < high, found {config.value_range}")
