"""Frozen DINO networks (METHOD.md section 2): DINOv2 as semantic teacher, DINO ViT-S/16 under the discriminator.

Both are built of weights as published (formats/dino.py).
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...checkpoints.checkpoint import State
from ...core.errors import UserError
from ...core.parsing import parsing
from ...core.sizes import Size
from ...formats.dino import resample_patches, to_vit
from ...formats.opening import read_state
from ...formats.tensors import block_count, check_state
from ...model_configs import TokenizerConfig
from ..vit import ViT, patch_grid, resample_positions

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's images in [0, 1]
STD = (0.229, 0.224, 0.225)
BACKBONE_SIZE = 224  # pixels along one side of what the discriminator's backbone sees


class ViTSize(NamedTuple):
    """Size of a ViT, and the blocks (0-based) after which the discriminator reads it."""

    width: int
    depth: int
    heads: int
    taps: tuple[int, ...] = ()


VIT_S16 = ViTSize(width=384, depth=12, heads=6, taps=(2, 5, 8, 11))


class ImageNetNormalize(nn.Module):
    """Images in [-1, 1] -> ImageNet normalisation: (0.5 x + 0.5 - mean) / std for each channel."""

    def __init__(self):
        super().__init__()
        mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


class DINOTeacher(nn.Module):
    """Class feature of a frozen DINOv2 ViT, after its final norm: the target of the semantic loss.

    Attributes: width. The images must have the size that the ViT's position table was resampled to.
    """

    def __init__(self, vit: ViT):
        super().__init__()
        self.normalize = ImageNetNormalize()
        self.vit, self.width = vit, vit.width
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> (B, width)."""
        return self.vit(self.normalize(images))[:, 0]

    def patches(self, images: Tensor, grid: Size) -> Tensor:
        """Features of the patches (B, P, width), row-major; `grid` must be the network's own."""
        if grid != self.vit.grid:
            raise ValueError(f"the teacher has a grid of {self.vit.grid} patches, asked for {grid}")
        return self.vit(self.normalize(images))[:, 1:]


class DINOBackbone(nn.Module):
    """Frozen DINO ViT/16 read before its blocks and after some of them: patch tokens plus the class token.

    Attributes: channels, the width once for each tap.
    """

    def __init__(self, size: ViTSize = VIT_S16):
        super().__init__()
        self.normalize = ImageNetNormalize()
        self.taps = size.taps
        self.vit = ViT(
            grid=BACKBONE_SIZE // 16,
            patch_size=16,
            width=size.width,
            depth=size.depth,
            heads=size.heads,
            final_norm=False,
            gelu="tanh",
        )
        self.channels = [size.width] * (1 + len(size.taps))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [-1, 1] -> taps, each (B, width, 196); `crop_or_resize` comes first."""
        return self.read(crop_or_resize(images))

    def read(self, images: Tensor) -> list[Tensor]:
        """Taps of images that are 224 x 224 already."""
        x = self.vit.embed(self.vit.patch_embed(self.normalize(images)))
        taps = [_tap(x)]
        for i, block in enumerate(self.vit.blocks[: self.taps[-1] + 1]):
            x = block(x)
            if i in self.taps:
                taps.append(_tap(x))
        return taps


def _tap(x: Tensor) -> Tensor:
    return (x[:, 1:] + x[:, :1]).transpose(1, 2)


def crop_or_resize(images: Tensor, size: int = BACKBONE_SIZE) -> Tensor:
    """Images (B, 3, H, W) -> (B, 3, size, size), differentiable.

    Where both sides exceed `size`, one crop shared by the batch or a resize, with equal probability, drawn from torch's
    generator on the CPU; otherwise always a resize.
    """
    height, width = images.shape[2:]
    if min(height, width) <= size or torch.rand(()) > 0.5:
        return resize(images, size)
    top = torch.randint(height - size + 1, ()).item()
    left = torch.randint(width - size + 1, ()).item()
    return images[:, :, top : top + size, left : left + size]


def resize(images: Tensor, size: int = BACKBONE_SIZE) -> Tensor:
    """Resize to (size, size): by averaging areas from larger images, bicubic from smaller ones."""
    height, width = images.shape[2:]
    if (height, width) == (size, size):
        return images
    if height > size:
        return F.interpolate(images, size=(size, size), mode="area")
    return F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False)


def read_dinov2(path: str | Path, config: TokenizerConfig) -> State:
    """DINOv2 weights (timm, Hugging Face or original keys) resampled to the patches and grid of a tokenizer.

    Returns: our ViT's keys, float32. Raises: UserError for another network or one of another width than the encoder.
    """
    with parsing(path, "DINOv2 weights"):
        state = to_vit(read_state(path), str(path))
        width = state["pos_embed"].shape[-1]
        if width != config.width:
            found = f"of width {width}; expected {config.width}, as the tokenizer's encoder"
            raise UserError(f"{path}: DINOv2 weights {found}")
        grid = patch_grid(config.image_size, config.patch_size)
        state["pos_embed"] = resample_positions(state["pos_embed"], grid)
        state["patch_embed.proj.weight"] = resample_patches(state["patch_embed.proj.weight"], config.patch_size)
        return state


def load_teacher(path: str | Path, config: TokenizerConfig) -> DINOTeacher:
    """Frozen DINOv2 whose class feature the semantic loss of a tokenizer of `config` aims at."""
    return build_teacher(read_dinov2(path, config), config, str(path))


def build_teacher(state: State, config: TokenizerConfig, where: str) -> DINOTeacher:
    """The teacher of weights under our ViT's keys, on the tokenizer's patches and grid; its depth is its own."""
    vit = ViT(
        grid=patch_grid(config.image_size, config.patch_size),
        patch_size=config.patch_size,
        width=config.width,
        depth=block_count(state),
        heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        layer_scale=1.0 if "blocks.0.ls1.gamma" in state else None,
    )
    check_state(state, vit.state_dict(), where, "DINOv2")
    vit.load_state_dict(state)
    return DINOTeacher(vit)


def load_backbone(path: str | Path, size: ViTSize = VIT_S16) -> DINOBackbone:
    """Frozen DINO ViT for the discriminator. Raises: UserError for weights of another size than `size`."""
    with parsing(path, "DINO weights"):
        state = {
            key: value for key, value in to_vit(read_state(path), str(path)).items() if not key.startswith("norm.")
        }
        width = state["pos_embed"].shape[-1]
    backbone = DINOBackbone(size)
    layout = f"DINO of width {width}; expected ViT/16 of width {size.width}, depth {size.depth}"
    check_state(state, backbone.vit.state_dict(), str(path), layout)
    backbone.vit.load_state_dict(state)
    return backbone
