"""GigaTok (arXiv 2504.08736): a convolutional tokenizer with transformers between its grid and a sequence of tokens.

The encoder's transformer starts from averages over parts of the image and reads the grid of features; the decoder's
starts from the first latent at every place and reads the latents.
"""

from __future__ import annotations

from torch import Tensor, nn

from ...model_configs import GigaTokConfig
from ..precision import in_float32
from ..vit import only_squares
from .conv_layers import ConvDecoder, ConvEncoder, cell_grid, check_levels
from .quantized import QuantizedTokenizer
from .quantizer import CodeQuantizer
from .query_transformer import QueryTransformer, averaged_counts, nested_averages

SEMANTIC_BLOCKS = 3  # after so many blocks of the decoder its training reads semantic features


class TokensFromGrid(nn.Module):
    """Features (B, C, g, g) -> (B, L, C), the first from the whole image, later ones from ever smaller parts."""

    def __init__(self, config: GigaTokConfig, grid: int):
        super().__init__()
        self.transformer = QueryTransformer(
            queries=config.num_latents,
            memory=grid**2,
            channels=config.feature_width,
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
        )
        self.query = nn.Linear(config.width, config.width)
        self.output = nn.Linear(config.width, config.feature_width)

    def forward(self, features: Tensor) -> Tensor:
        transformer, sides = self.transformer, features.shape[2:]
        memory = transformer.embed(features.flatten(2).mT)
        averages = nested_averages(memory.mT.unflatten(2, sides), len(transformer.positions))
        return self.output(transformer.norm(transformer.read(self.query(averages), memory)))


class GridFromTokens(nn.Module):
    """(B, L, C) -> features (B, C, g, g)."""

    def __init__(self, config: GigaTokConfig, grid: int):
        super().__init__()
        self.grid = grid
        self.transformer = QueryTransformer(
            queries=grid**2,
            memory=config.num_latents,
            channels=config.feature_width,
            width=config.decoder_width,
            depth=config.decoder_depth,
            heads=config.decoder_heads,
            mlp_ratio=config.mlp_ratio,
        )
        self.output = nn.Conv2d(config.decoder_width, config.feature_width, 3, padding=1)

    def places(self, tokens: Tensor, blocks: int | None = None) -> Tensor:
        """States (B, g * g, width) at the places of the grid, row-major, after the first `blocks` blocks."""
        memory = self.transformer.embed(tokens)
        return self.transformer.read(memory[:, :1].expand(-1, self.grid**2, -1), memory, blocks)

    def forward(self, tokens: Tensor) -> Tensor:
        places = self.transformer.norm(self.places(tokens))
        # Rows of places are a map with channels last, which convolutions and group norms are slower and coarser on.
        return self.output(places.mT.contiguous().unflatten(2, (self.grid, self.grid)))


class GigaTok(QuantizedTokenizer):
    """Images <-> a sequence of L tokens. Images are float (B, 3, S, S) in [-1, 1]; S = `image_size`.

    Attributes: config; image_size; num_latents = num_tokens = L; codebook (K, D) as stored; similarity; perturbable;
    semantic_head, which its authors' training alone uses and which does not learn here; None where there is none.
    Raises: ValueError for sizes that do not fit together.
    """

    kind = "gigatok"

    def __init__(self, config: GigaTokConfig):
        super().__init__()
        cell, features = 2 ** (len(config.widths) - 1), config.feature_width
        _check(config, cell)
        self.config, self.image_size = config, config.image_size
        self.num_latents = self.num_tokens = config.num_latents
        grid = config.image_size // cell
        shape = dict(attention=(), middle_blocks=2, middle_attention=False, style="gigatok")
        self.encoder = ConvEncoder(
            widths=config.widths, stem_width=config.stem_width, blocks=config.blocks, out_channels=features, **shape
        )
        self.to_tokens = TokensFromGrid(config, grid)
        self.quant_conv = nn.Linear(features, config.code_width)
        self.quantizer = CodeQuantizer(config.codebook_size, config.code_width, "cosine")
        self.post_quant_conv = nn.Linear(config.code_width, features)
        self.to_grid = GridFromTokens(config, grid)
        decoder_widths = config.decoder_widths or config.widths
        self.decoder = ConvDecoder(widths=decoder_widths, blocks=config.decoder_blocks, in_channels=features, **shape)
        self.semantic_head = None if config.semantic_width is None else _head(config)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(L, D) of `encode`'s result."""
        return self.num_latents, self.config.code_width

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution: where the adaptive adversarial weight compares gradients."""
        return self.decoder.conv_out.weight

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) -> z (B, L, D), float32, not yet normalised, as it goes into the vq ops."""
        images = self.checked_images(images)
        features = self.to_tokens(self.encoder(images))
        return in_float32(self.quant_conv, features)

    def decode(self, z_q: Tensor) -> Tensor:
        """z_q (B, L, D), on the scale of the codes -> images (B, 3, S, S), not clamped."""
        return self.decoder(self.to_grid(self._tokens(z_q)))

    def semantic_features(self, z_q: Tensor) -> Tensor:
        """z_q (B, L, D) -> (B, g * g, F), one a place of the grid: what its training compares with a frozen network's.

        Raises: ValueError for a tokenizer without a head for them.
        """
        if self.semantic_head is None:
            raise ValueError("this tokenizer has no head for semantic features (semantic_width is None)")
        return self.semantic_head(self.to_grid.places(self._tokens(z_q), SEMANTIC_BLOCKS))

    def _tokens(self, z_q: Tensor) -> Tensor:
        return self.post_quant_conv(self.checked_latents(z_q, "z_q"))

    def encoder_side(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.to_tokens, self.quant_conv, self.quantizer

    def decoder_side(self) -> tuple[nn.Module, ...]:
        return self.post_quant_conv, self.to_grid, self.decoder


def _head(config: GigaTokConfig) -> nn.Sequential:
    hidden = 4 * config.decoder_width
    layers = [nn.Linear(config.decoder_width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, config.semantic_width)).requires_grad_(False)


def _check(config: GigaTokConfig, cell: int) -> None:
    check_levels(config.widths, config.decoder_widths)
    cell_grid(only_squares(config.image_size, "a gigatok"), cell, ", a place of the grid")
    counts = averaged_counts(config.image_size // cell)
    if config.num_latents not in counts:
        raise ValueError(f"num_latents must be one of {counts} for this grid, found {config.num_latents}")
