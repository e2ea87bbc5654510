"""LPIPS with VGG-16: the perceptual distance of the reconstruction loss (arXiv 1801.03924)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Output channels of VGG-16's convolutions in five stages; each stage but the first begins with a 2x2 max-pooling.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
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
        features = self._features(torch.cat([x, y]))
        terms = []
        for feature, weight in zip(features, self.linear, strict=True):
            a, b = (feature / (feature.norm(dim=1, keepdim=True) + 1e-10)).chunk(2)
            terms.append(torch.einsum("bchw,c->bhw", (a - b).square(), weight).mean((1, 2)))
        return torch.stack(terms, dim=1)

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
