"""The convolutional encoder and decoder that VQGAN (arXiv 2012.09841) and its successors share.

Residual blocks with group normalisation and swish on several resolutions, single-head attention at some of them, and a
middle at the lowest one. Published networks come in three styles:

    "vqgan"     taming VQGAN, LlamaGen, IBQ: strided convolutions halve the resolution
    "maskgit"   MaskGIT: average pooling halves it, convolutions of blocks have no bias, and a block that changes the
                width sends the *output* of its second convolution through the shortcut, so that its input is lost
    "gigatok"   GigaTok (arXiv 2504.08736): as VQGAN's, but the decoder doubles the resolution by moving channels into
                space, and before each of its levels values are normalised anew, by what it decodes
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.sizes import Size, as_size, sides
from ..compiling import CompiledBlock

Style = Literal["vqgan", "maskgit", "gigatok"]
GROUPS, EPSILON = 32, 1e-6  # of every group normalisation


def group_norm(width: int) -> nn.GroupNorm:
    """Raises: ValueError for a width that is no multiple of 32."""
    return nn.GroupNorm(GROUPS, width, eps=EPSILON)


class ResidualBlock(nn.Module):
    """Maps (B, C_in, H, W) to (B, C_out, H, W): two 3x3 convolutions, each after normalisation and swish."""

    def __init__(self, width_in: int, width: int, style: Style = "vqgan"):
        super().__init__()
        self.loses_input = style == "maskgit" and width_in != width
        bias = style != "maskgit"
        self.norm1 = group_norm(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1, bias=bias)
        self.norm2 = group_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        shortcut_in = width if self.loses_input else width_in
        self.shortcut = nn.Conv2d(shortcut_in, width, 1, bias=bias) if width_in != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + self.shortcut(y if self.loses_input else x)


class SpatialAttention(nn.Module):
    """Single-head attention between all positions of (B, C, H, W), added to its input."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = group_norm(width)
        self.q, self.k, self.v, self.out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (layer(y).flatten(2).mT[:, None] for layer in (self.q, self.k, self.v))  # (B, 1, H * W, C)
        y = F.scaled_dot_product_attention(q, k, v)[:, 0].mT
        return x + self.out(y.reshape(x.shape))


class Downsample(nn.Module):
    """Halves height and width by a 3x3 convolution; one row and one column of zeros are added below and right."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width by repeating each value, then a 3x3 convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class SpaceFromDepth(nn.Module):
    """Doubles height and width: a 3x3 convolution makes the four values of each 2x2 block, its place first."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, 4 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        blocks = self.conv(x).unflatten(1, (2, 2, -1))  # (B, row in the block, column in it, C, H, W)
        return blocks.permute(0, 3, 4, 1, 5, 2).flatten(4).flatten(2, 3)


class AdaptiveNorm(nn.Module):
    """Group normalisation whose factor and offset of each channel are linear in the spread and mean of `source`."""

    def __init__(self, width: int, source_width: int):
        super().__init__()
        self.gamma = nn.Linear(source_width, width)
        self.beta = nn.Linear(source_width, width)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """x (B, width, H, W); source (B, source_width, h, w)."""
        spread = (source.var((2, 3)) + EPSILON).sqrt()
        gamma, beta = self.gamma(spread), self.beta(source.mean((2, 3)))
        return torch.addcmul(beta[..., None, None], F.group_norm(x, GROUPS, eps=EPSILON), gamma[..., None, None])


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where there is any, then `resample`."""

    def __init__(
        self, width_in: int, width: int, blocks: int, attention: bool, resample: nn.Module | None, style: Style
    ):
        super().__init__()
        widths = [width_in, *[width] * blocks]
        self.blocks = nn.ModuleList(ResidualBlock(*widths[i : i + 2], style) for i in range(blocks))
        self.attention = nn.ModuleList(SpatialAttention(width) for _ in range(blocks if attention else 0))
        self.resample = resample or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x)
            if self.attention:
                x = self.attention[i](x)
        return self.resample(x)


def middle(width: int, blocks: int, attention: bool, style: Style) -> nn.Sequential:
    """Residual blocks at the lowest resolution, with attention after the first of them."""
    layers: list[nn.Module] = [ResidualBlock(width, width, style) for _ in range(blocks)]
    if attention:
        layers.insert(1, SpatialAttention(width))
    return nn.Sequential(*layers)


class ConvEncoder(CompiledBlock):
    """Images (B, C, H, W) -> features (B, out_channels, H / f, W / f) with f = 2 ** (levels - 1).

    Args:
        widths: of the levels, the highest resolution first; multiples of 32.
        stem_width: channels of the first convolution.
        blocks: residual blocks a level.
        attention: which levels have attention, counted from the highest resolution.
        middle_blocks, middle_attention: of the middle.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        stem_width: int,
        blocks: int,
        attention: Sequence[int],
        middle_blocks: int,
        middle_attention: bool,
        out_channels: int,
        style: Style,
        image_channels: int = 3,
    ):
        super().__init__()
        last, inputs = len(widths) - 1, [stem_width, *widths]
        self.conv_in = nn.Conv2d(image_channels, stem_width, 3, padding=1, bias=style != "maskgit")
        self.levels = nn.Sequential(
            *(
                Level(inputs[i], width, blocks, i in attention, _halving(width, style) if i < last else None, style)
                for i, width in enumerate(widths)
            )
        )
        self.middle = middle(widths[-1], middle_blocks, middle_attention, style)
        self.norm_out = group_norm(widths[-1])
        kernel = 1 if style == "maskgit" else 3
        self.conv_out = nn.Conv2d(widths[-1], out_channels, kernel, padding=kernel // 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.middle(self.levels(self.conv_in(images)))
        return self.conv_out(F.silu(self.norm_out(x)))


def _halving(width: int, style: Style) -> nn.Module:
    return nn.AvgPool2d(2) if style == "maskgit" else Downsample(width)


class ConvDecoder(CompiledBlock):
    """Features (B, in_channels, h, w) -> images (B, C, h * f, w * f), with nothing after the last convolution.

    Arguments as `ConvEncoder`: widths and attention are counted from the highest resolution, which comes last here.
    `levels` are in the order of computation: the lowest resolution first.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        middle_blocks: int,
        middle_attention: bool,
        in_channels: int,
        style: Style,
        image_channels: int = 3,
    ):
        super().__init__()
        inputs = [*widths, widths[-1]]
        self.conv_in = nn.Conv2d(in_channels, widths[-1], 3, padding=1)
        self.middle = middle(widths[-1], middle_blocks, middle_attention, style)
        order, double = list(reversed(range(len(widths)))), SpaceFromDepth if style == "gigatok" else Upsample
        self.levels = nn.Sequential(
            *(
                Level(inputs[i + 1], widths[i], blocks, i in attention, double(widths[i]) if i else None, style)
                for i in order
            )
        )
        adaptive = order if style == "gigatok" else []
        self.adaptive = nn.ModuleList(AdaptiveNorm(inputs[i + 1], in_channels) for i in adaptive)
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], image_channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        x = self.middle(self.conv_in(features))
        for i, level in enumerate(self.levels):
            x = level(self.adaptive[i](x, features) if self.adaptive else x)
        return self.conv_out(F.silu(self.norm_out(x)))


def check_levels(widths: tuple[int, ...], decoder_widths: tuple[int, ...] | None) -> None:
    """Raises ValueError where encoder and decoder have not as many levels as each other."""
    if decoder_widths is not None and len(decoder_widths) != len(widths):
        found = f"{len(widths)} and {len(decoder_widths)}"
        raise ValueError(f"encoder and decoder must have as many levels as each other, found {found}")


def cell_grid(image_size: Size, cell: int, what: str) -> Size:
    """Cells along one side of an image, or (rows, columns) of them; they are `what`.

    Raises: ValueError where an image is no whole number of cells.
    """
    height, width = sides(image_size)
    if min(height, width) < cell or height % cell or width % cell:
        raise ValueError(f"image_size must be a multiple of {cell}{what}, found {image_size}")
    return as_size(height // cell, width // cell)
