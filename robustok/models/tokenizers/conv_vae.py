"""Convolutional variational autoencoders on a grid of latents: diffusers' AutoencoderKL, as Stable Diffusion has it."""

from torch import Tensor, nn

from ...core.sizes import area, sides
from ...model_configs import ConvVAEConfig
from ...ops.grid import from_grid, to_grid
from .continuous import ContinuousBase
from .conv_layers import ConvDecoder, ConvEncoder, cell_grid


class ConvVAE(ContinuousBase):
    """Images <-> a grid of latents, row-major. Images are float (B, 3, H, W) in [-1, 1], of `image_size`.

    A latent is the mean that the encoder gives; its spread, which training would draw from, is left out.
    Attributes: config; image_size; grid (latents along one side, or rows and columns of them); num_latents L of the
    grid; latent_shape (L, D).
    Raises: ValueError for sizes that do not fit together.
    """

    kind = "conv_vae"

    def __init__(self, config: ConvVAEConfig):
        super().__init__()
        cell, D = 2 ** (len(config.widths) - 1), config.latent_width
        self.config, self.image_size = config, config.image_size
        self.grid = cell_grid(config.image_size, cell, " (a latent)")
        self.num_latents = area(self.grid)
        shape = dict(widths=config.widths, attention=(), middle_blocks=2, middle_attention=config.middle_attention)
        shape |= dict(style="vqgan")
        self.encoder = ConvEncoder(stem_width=config.widths[0], blocks=config.blocks, out_channels=2 * D, **shape)
        self.quant_conv = nn.Conv2d(2 * D, 2 * D, 1) if config.quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(D, D, 1) if config.post_quant_conv else nn.Identity()
        self.decoder = ConvDecoder(blocks=config.blocks + 1, in_channels=D, **shape)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(L, D) of `encode`'s result."""
        return self.num_latents, self.config.latent_width

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution: where the adaptive adversarial weight compares gradients."""
        return self.decoder.conv_out.weight

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> means z (B, L, D), float32, on the scale that the decoder takes."""
        moments = self.quant_conv(self.encoder(self.checked_images(images))).float()
        return from_grid(moments[:, : self.config.latent_width])

    def decode(self, z: Tensor) -> Tensor:
        """Latents z (B, L, D) -> images (B, 3, H, W), not clamped."""
        # Rows of latents are a map with channels last, whose group normalisation rounds several times worse on a CPU.
        return self.decoder(self.post_quant_conv(to_grid(self.checked_latents(z, "z"), sides(self.grid)[0])))

    def encoder_side(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.quant_conv

    def decoder_side(self) -> tuple[nn.Module, ...]:
        return self.post_quant_conv, self.decoder
