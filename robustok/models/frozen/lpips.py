"""LPIPS with VGG-16: the perceptual distance of the reconstruction loss (arXiv 1801.03924)."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...checkpoints.checkpoint import State
from ...core.errors import UserError
from ...core.paths import readable_folder
from ...core.text import some_of
from ...formats.opening import read_state
from ...formats.tensors import check_state
from ..compiling import CompiledBlock

# Output channels of VGG-16's convolutions in five stages; each stage but the first begins with a 2x2 max-pooling.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class LPIPS(CompiledBlock):
    """Weighted squared difference of channel-normalised features after relu1_2, 2_2, 3_3, 4_3 and 5_3.

    There is no dropout in front of the linear layers: the distance is the same in either mode.
    """

    def __init__(self):
        super().__init__()
        channels, stages = 3, []
        for widths in STAGES:
            stages.append(nn.ModuleList())
            for width in widths:
                stages[-1].append(nn.Conv2d(channels, width, 3, padding=1))
                channels = width
        self.stages = nn.ModuleList(stages)
        self.linear = nn.ParameterList(torch.rand(widths[-1]) for widths in STAGES)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y (B, 3, H, W) in [-1, 1], sides at least 16 -> distances (B,) >= 0; differentiable in both."""
        return self.per_stage(x, y).sum(1)

    def per_stage(self, x: Tensor, y: Tensor) -> Tensor:
        """The five terms of the distance, (B, 5)."""
        # one after the other: of images that need no gradient, nothing is kept for one
        pairs = zip(self._features(x), self._features(y), self.linear, strict=True)
        terms = [torch.einsum("bchw,c->bhw", (_unit(a) - _unit(b)).square(), weight) for a, b, weight in pairs]
        return torch.stack([term.mean((1, 2)) for term in terms], dim=1)

    def _features(self, images: Tensor) -> list[Tensor]:
        x = (images - self.shift) / self.scale
        features = []
        for i, stage in enumerate(self.stages):
            if i > 0:
                x = F.max_pool2d(x, 2)
            for convolution in stage:
                x = F.relu(convolution(x))
            features.append(x)
        return features


def _unit(features: Tensor) -> Tensor:
    """(B, C, H, W), every place's channels divided by their norm."""
    return features / (features.norm(dim=1, keepdim=True) + 1e-10)


def load_lpips(folder: str | Path) -> LPIPS:
    """LPIPS of the files in `folder`: `vgg.pth` (its linear layers) and torchvision's VGG-16, under any name.

    Raises: UserError when one of the two is missing or of another network.
    """
    here = readable_folder(folder, "the folder of vgg.pth and VGG-16")
    paths = sorted(p for p in here.iterdir() if p.suffix in (".pth", ".pt", ".safetensors"))
    merged: State = {}
    for path in paths:
        merged |= read_state(path)
    lpips = LPIPS()
    names = _lpips_names(lpips)
    missing = [theirs for theirs in names if theirs not in merged]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(names)} LPIPS tensors are missing ({some_of(missing)}) in "
            f"{', '.join(p.name for p in paths) or 'no files of weights'}; expected vgg.pth and torchvision's VGG-16"
        )
    state = {
        ours: merged[theirs].flatten() if ours.startswith("linear") else merged[theirs]
        for theirs, ours in names.items()
    }
    check_state(state, lpips.state_dict(), str(folder), "LPIPS with VGG-16")
    lpips.load_state_dict(state)
    return lpips.eval().requires_grad_(False)


def _lpips_names(lpips: LPIPS) -> dict[str, str]:
    """Published name -> ours. torchvision numbers convolutions, ReLUs and poolings in one list."""
    names, place = {}, 0
    for i, widths in enumerate(STAGES):
        for j in range(len(widths)):
            for kind in ("weight", "bias"):
                names[f"features.{place}.{kind}"] = f"stages.{i}.{j}.{kind}"
            place += 2
        place += 1
        names[f"lin{i}.model.1.weight"] = f"linear.{i}"
    return names
