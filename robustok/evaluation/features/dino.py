"""DINOv2 features, for a Fréchet distance that follows human judgement more closely than Inception's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.files import sha256
from ...data.transforms import from_uint8
from ...formats.dino import to_vit
from ...formats.opening import read_state
from ...model_configs import TokenizerConfig
from ...models.frozen.dino import load_teacher
from .measuring import measuring, parts

SIDE, PATCH, HEAD_WIDTH = 224, 14, 64


class DinoOutput(NamedTuple):
    """What `DinoFeatures` gives, float32."""

    features: Tensor  # (B, width) class feature after the final norm


class DinoFeatures:
    """Callable: uint8 images (B, 3, H, W) of any size -> `.features` (B, width) float32, of a DINOv2 ViT/14.

    Stein et al. 2023 (FD on DINOv2): bicubic resize to 224 with antialiasing, ImageNet normalisation, class feature.
    Weights in any layout that the semantic teacher reads. Raises UserError for missing or foreign weights.
    """

    def __init__(self, weights_path: str | Path, *, device: torch.device | str | None = None, batch_size: int = 32):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.batch_size = batch_size
        width = to_vit(read_state(weights_path), str(weights_path))["pos_embed"].shape[-1]
        config = TokenizerConfig(image_size=SIDE, patch_size=PATCH, width=width, heads=width // HEAD_WIDTH)
        self.network = load_teacher(weights_path, config).to(self.device)
        self.sha256 = sha256(Path(weights_path))
        self.protocol = f"dinov2-vit14-{width}/bicubic-antialias-{SIDE}/float32"

    @measuring
    def __call__(self, images: Tensor) -> DinoOutput:
        found = []
        for batch in parts(images, self.batch_size, self.device):
            pixels = F.interpolate(from_uint8(batch), (SIDE, SIDE), mode="bicubic", antialias=True).clamp(-1, 1)
            found.append(self.network(pixels))
        return DinoOutput(torch.cat(found))
