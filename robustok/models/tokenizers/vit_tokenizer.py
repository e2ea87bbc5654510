"""The tokenizer (METHOD.md section 2): ViT encoder with latent tokens, quantiser, ViT decoder with mask tokens."""

import torch
from torch import Tensor, nn

from ...core.sizes import Size, area, as_size, sides
from ...model_configs import TokenizerConfig
from ..precision import in_float32
from ..vit import ViT, join_patches, patch_grid, resample_positions
from .quantized import QuantizedTokenizer
from .quantizer import CodeQuantizer, ProductQuantizer
from .residual import ResidualQuantizer


class LatentViT(nn.Module):
    """A ViT over image tokens and groups of latent tokens, told apart by a level embedding."""

    def __init__(self, vit: ViT, latent_grid: Size, groups: int = 1):
        super().__init__()
        self.vit = vit
        self.latent_grid = latent_grid
        self.level = nn.Parameter(torch.zeros(1 + groups, vit.width))  # image, then latents
        nn.init.trunc_normal_(self.level, std=0.02)

    def latent_positions(self) -> Tensor:
        """(1, 1 + L, width): the ViT's own position table on the latents' grid, class row first."""
        return resample_positions(self.vit.pos_embed, self.latent_grid, old=self.vit.grid)

    def transform(self, image_tokens: Tensor, latent_tokens: Tensor) -> Tensor:
        """Add levels, join along the sequence, run all blocks and the final norm."""
        level = self.level[1:].repeat_interleave(latent_tokens.shape[1] // (len(self.level) - 1), dim=0)
        return self.vit.transform(torch.cat([image_tokens + self.level[0], latent_tokens + level], dim=1))


class Encoder(LatentViT):
    """Images (B, 3, H, W) -> latent features (B, L, Q, width): outputs at the appended latent tokens, Q groups of L."""

    def __init__(self, vit: ViT, latent_grid: Size, groups: int):
        super().__init__(vit, latent_grid, groups)
        self.groups = groups
        self.latent_tokens = nn.Parameter(torch.zeros(1, groups * area(latent_grid), vit.width))
        nn.init.trunc_normal_(self.latent_tokens, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        positions = self.latent_positions()[:, 1:].repeat(1, self.groups, 1)
        latents = (self.latent_tokens + positions).expand(images.shape[0], -1, -1)
        tokens = self.vit.embed(self.vit.patch_embed(images))
        outputs = self.transform(tokens, latents)[:, -latents.shape[1] :]
        return outputs.unflatten(1, (self.groups, -1)).transpose(1, 2)


class Decoder(LatentViT):
    """Latent features (B, L, width) -> images (B, 3, H, W) from the outputs at mask tokens, one a patch."""

    def __init__(self, vit: ViT, latent_grid: Size, patch_size: int):
        super().__init__(vit, latent_grid)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, vit.width))
        self.to_pixel = nn.Linear(vit.width, 3 * patch_size**2)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.xavier_uniform_(self.to_pixel.weight)
        nn.init.zeros_(self.to_pixel.bias)

    def forward(self, latents: Tensor) -> Tensor:
        vit = self.vit
        patches = area(vit.grid)
        masks = vit.embed(self.mask_token.expand(latents.shape[0], patches, -1))
        cls_token = vit.cls_token.expand(latents.shape[0], -1, -1)  # the latent group has a class token of its own
        latents = torch.cat([cls_token, latents], dim=1) + self.latent_positions()
        return join_patches(self.to_pixel(self.transform(masks, latents)[:, 1 : 1 + patches]), vit.grid)


class ViTTokenizer(QuantizedTokenizer):
    """Images <-> T discrete tokens. Images are float, (B, 3, H, W), in [-1, 1]; H and W are of `image_size`.

    Attributes: config; image_size (H, W, or one number where they are equal); grid (rows and columns of latents, in the
    same way); num_latents L, their product; num_tokens T = L; codebook (K, D) as stored; normalize (whether
    l2-normalised vectors are compared); perturbable (see models/interfaces.py).
    With Q > 1 codebooks a latent has Q * D coordinates in place of D, its token is Q indices, codebook is (Q, K, D);
    with `scales` T is the sum of scale**2.
    Raises: ValueError for sizes that do not fit together.
    """

    kind = "tokenizer"

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        patches, latents = grids(config)
        self.config, self.image_size, self.grid = config, config.image_size, latents
        self.num_latents = area(latents)
        self.num_tokens = sum(map(area, config.scales or (latents,)))
        shape = dict(grid=patches, mlp_ratio=config.mlp_ratio, layer_scale=config.layer_scale)
        shape |= dict(drop_path=config.drop_path)
        width = config.decoder_width or config.width
        encoder = ViT(patch_size=config.patch_size, width=config.width, depth=config.depth, heads=config.heads, **shape)
        decoder = ViT(
            patch_size=None,
            width=width,
            depth=config.decoder_depth or config.depth,
            heads=config.decoder_heads or config.heads,
            **shape,
        )
        self.encoder = Encoder(encoder, latents, config.codebooks)
        self.quant_conv = nn.Linear(config.width, config.code_width)
        self.quantizer = _quantizer(config, latents)
        self.post_quant_conv = nn.Linear(config.codebooks * config.code_width, width)
        self.decoder = Decoder(decoder, latents, config.patch_size)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(L, D) of `encode`'s result."""
        return self.num_latents, self.config.codebooks * self.config.code_width

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the to-pixel layer: where the adaptive adversarial weight compares gradients."""
        return self.decoder.to_pixel.weight

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> z (B, L, D), float32, not yet normalised, as it goes into the vq ops."""
        images = self.checked_images(images)
        return self.project(self.encoder(images)).flatten(2)

    def project(self, features: Tensor) -> Tensor:
        """Features (..., width) through `quant_conv` -> (..., D), in float32 even under autocast."""
        return in_float32(self.quant_conv, features)

    def decode(self, z_q: Tensor) -> Tensor:
        """z_q (B, L, D), on the scale of the codes -> images (B, 3, H, W), not clamped."""
        return self.decoder(self.post_quant_conv(self.checked_latents(z_q, "z_q")))

    def encoder_side(self) -> tuple[nn.Module, ...]:
        """ViT with latent tokens and level embedding, `quant_conv`, codebook."""
        return self.encoder, self.quant_conv, self.quantizer

    def decoder_side(self) -> tuple[nn.Module, ...]:
        return self.post_quant_conv, self.decoder


def _quantizer(config: TokenizerConfig, grid: Size) -> nn.Module:
    if config.scales is not None and config.scales[-1] != grid:
        raise ValueError(f"the last of scales must be the latents' grid, {grid}, found {config.scales}")
    if config.codebook_size is None:
        raise ValueError("codebook_size: found None, expected a whole number (of a run, its data decides it)")

    def part() -> nn.Module:
        if config.scales is None:
            return CodeQuantizer(config.codebook_size, config.code_width, "cosine" if config.normalize else "l2")
        return ResidualQuantizer(config.codebook_size, config.code_width, config.scales, config.residual_convs)

    return part() if config.codebooks == 1 else ProductQuantizer(part() for _ in range(config.codebooks))


def grids(config: TokenizerConfig) -> tuple[Size, Size]:
    """Rows and columns of the patches, and of the latents. Raises: ValueError for sizes that do not fit together."""
    patches = patch_grid(config.image_size, config.patch_size)
    rows, columns = sides(patches)
    count = area(patches) if config.num_latents is None else config.num_latents
    latents = tuple(round(side * (count / area(patches)) ** 0.5) for side in (rows, columns))
    if min(latents) < 1 or area(latents) != count or latents[0] * columns != latents[1] * rows:
        shape = "a square number" if rows == columns else f"a grid of the shape of the patches, {rows} x {columns}"
        raise ValueError(f"num_latents must be {shape} (a grid of latents), found {count}")
    return patches, as_size(*latents)
