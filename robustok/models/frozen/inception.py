"""Inception-V3 as in the TensorFlow graph of 2015 from which FID, sFID, Inception Score and precision/recall are taken.

It is not torchvision's network: the average-pool branches do not count padding, the last block pools by maximum, and
the classifier has 1008 outputs. Module names are those of the two public ports (pytorch-fid, torch-fidelity), so that
their weights load by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import UserError
from ...formats.opening import read_state
from ...formats.tensors import check_state
from ...ops.convolution import average, convolve_parts, convolve_relu, max_pool

# Modules of pytorch-fid's wrapper, `blocks.i.j`, by place; the pools between them have no weights.
WRAPPER = {
    "0": {"0": "Conv2d_1a_3x3", "1": "Conv2d_2a_3x3", "2": "Conv2d_2b_3x3"},
    "1": {"0": "Conv2d_3b_1x1", "1": "Conv2d_4a_3x3"},
    "2": dict(zip("01234567", (f"Mixed_{n}" for n in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e")), strict=True)),
    "3": {"0": "Mixed_7a", "1": "Mixed_7b", "2": "Mixed_7c"},
}


class InceptionOutput(NamedTuple):
    """Every feature that a metric of image generation reads; all float, B images."""

    features: Tensor  # (B, 2048) spatial mean after Mixed_7c: FID, KID, precision and recall
    logits: Tensor | None  # (B, 1008) without bias: Inception Score; None where the weights have no classifier
    spatial: (
        Tensor  # (B, 2023) first 7 channels of Mixed_6d's 1x1 branch, 17 x 17 x 7 in height, width, channel order: sFID
    )
    features64: Tensor  # (B, 64) spatial mean after the first max pool
    features192: Tensor  # (B, 192) after the second max pool
    features768: Tensor  # (B, 768) after Mixed_6e


class Convolution(nn.Module):
    """Convolution, batch norm (inference statistics), ReLU."""

    def __init__(self, width: int, out: int, kernel: int | tuple[int, int] = 1, stride: int = 1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(width, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.bn, nn.Identity):
            return convolve_relu(x, self.conv.weight, self.conv.bias, self.conv.stride, self.conv.padding)
        return F.relu(self.bn(self.conv(x)), inplace=True)

    def fold(self) -> None:
        """Moves the norm into the convolution: the same function up to float32 rounding (1e-7), one pass less."""
        scale = self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)
        self.conv.weight = nn.Parameter(self.conv.weight * scale[:, None, None, None])
        self.conv.bias = nn.Parameter(self.bn.bias - self.bn.running_mean * scale)
        self.bn = nn.Identity()


class Mixed(nn.Module):
    """Branches of convolutions, and one that pools, concatenated along the channels.

    `branches` maps a name to its steps (channels, kernel) or (channels, kernel, stride); a list of steps at one place
    means that they read the same input and are concatenated. Stride 1 keeps the size, stride 2 pads nothing.
    The pool is "average" or "maximum" (3 x 3, then 1 x 1 to `pool_width` channels), or "reduce" (maximum with stride 2
    and no weights).
    """

    def __init__(self, width: int, branches: dict[str, list], pool: str, pool_width: int = 0):
        super().__init__()
        self.branches = [self._add_branch(width, name, steps) for name, steps in branches.items()]
        self.pool = pool
        self.merged: dict[str, int] = {}  # channels of each convolution that `heads` stands for
        if pool != "reduce":
            self.branch_pool = Convolution(width, pool_width)

    def _add_branch(self, width: int, name: str, steps: list) -> list[list[str]]:
        """Adds the modules of a branch, named as in the public ports; returns their names, step by step."""
        names = []
        for i, step in enumerate(steps, start=1):
            base = f"{name}_{i}" if len(steps) > 1 else name
            parallel = (
                dict(zip((f"{base}a", f"{base}b"), step, strict=True)) if isinstance(step, list) else {base: step}
            )
            for key, (out, kernel, *stride) in parallel.items():
                padding = 0 if stride else tuple(k // 2 for k in kernel)
                self.add_module(key, Convolution(width, out, kernel, *stride, padding=padding))
            width = sum(out for out, *_ in parallel.values())
            names.append(list(parallel))
        return names

    def merge(self) -> None:
        """Makes one convolution of those of 1 x 1 that read the block's input: one product where there were four.

        The average's is among them, as averages and 1 x 1 convolutions commute, and fewer channels are averaged then.
        Norms are folded before.
        """
        firsts = [name for first, *_ in self.branches for name in first if getattr(self, name).conv.kernel_size == ONE]
        names = [*firsts, "branch_pool"] if self.pool == "average" else firsts
        if len(names) < 2:
            return
        parts = {name: self._modules.pop(name).conv for name in names}
        weight, bias = (torch.cat([getattr(part, of) for part in parts.values()]) for of in ("weight", "bias"))
        self.merged = {name: part.out_channels for name, part in parts.items()}
        self.heads = nn.Conv2d(weight.shape[1], len(weight), 1)
        self.heads.weight, self.heads.bias = (nn.Parameter(of, requires_grad=False) for of in (weight, bias))

    def _heads(self, x: Tensor) -> dict[str, Tensor]:
        """What the convolutions give that `merge` made one of."""
        if not self.merged:
            return {}
        widths, averaged = list(self.merged.values()), "branch_pool" in self.merged
        parts = convolve_parts(x, self.heads.weight, self.heads.bias, widths, averaged)
        return dict(zip(self.merged, parts, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        heads, outputs = self._heads(x), []
        for branch in self.branches:
            y = x
            for step in branch:
                parts = [heads[name] if name in heads else getattr(self, name)(y) for name in step]
                y = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
            outputs.append(y)
        return torch.cat([*outputs, heads["branch_pool"] if "branch_pool" in heads else self._pooled(x)], dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "reduce":
            return max_pool(x, stride=2)
        if self.pool == "maximum":
            return self.branch_pool(max_pool(x, stride=1, padding=1))
        return self.branch_pool(average(x))


ONE, THREE, FIVE, WIDE, TALL = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


def _block_35(width: int, pool_width: int) -> Mixed:
    """Blocks at 35 x 35."""
    branches = {
        "branch1x1": [(64, ONE)],
        "branch5x5": [(48, ONE), (64, FIVE)],
        "branch3x3dbl": [(64, ONE), (96, THREE), (96, THREE)],
    }
    return Mixed(width, branches, "average", pool_width)


def _block_17(middle: int) -> Mixed:
    """Blocks at 17 x 17."""
    branches = {
        "branch1x1": [(192, ONE)],
        "branch7x7": [(middle, ONE), (middle, WIDE), (192, TALL)],
        "branch7x7dbl": [(middle, ONE), (middle, TALL), (middle, WIDE), (middle, TALL), (192, WIDE)],
    }
    return Mixed(768, branches, "average", 192)


def _block_8(width: int, pool: str) -> Mixed:
    """Blocks at 8 x 8."""
    split = [(384, (1, 3)), (384, (3, 1))]
    branches = {
        "branch1x1": [(320, ONE)],
        "branch3x3": [(384, ONE), split],
        "branch3x3dbl": [(448, ONE), (384, THREE), split],
    }
    return Mixed(width, branches, pool, 192)


class Inception(nn.Module):
    """The network: float images (B, 3, 299, 299), normalised to (x - 128) / 128, -> `InceptionOutput`."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, THREE, 2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, THREE)
        self.Conv2d_2b_3x3 = Convolution(32, 64, THREE, padding=1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, ONE)
        self.Conv2d_4a_3x3 = Convolution(80, 192, THREE)
        self.Mixed_5b = _block_35(192, 32)
        self.Mixed_5c = _block_35(256, 64)
        self.Mixed_5d = _block_35(288, 64)
        halve = {"branch3x3": [(384, THREE, 2)], "branch3x3dbl": [(64, ONE), (96, THREE), (96, THREE, 2)]}
        self.Mixed_6a = Mixed(288, halve, "reduce")
        self.Mixed_6b = _block_17(128)
        self.Mixed_6c = _block_17(160)
        self.Mixed_6d = _block_17(160)
        self.Mixed_6e = _block_17(192)
        halve = {
            "branch3x3": [(192, ONE), (320, THREE, 2)],
            "branch7x7x3": [(192, ONE), (192, WIDE), (192, TALL), (192, THREE, 2)],
        }
        self.Mixed_7a = Mixed(768, halve, "reduce")
        self.Mixed_7b = _block_8(1280, "average")
        self.Mixed_7c = _block_8(2048, "maximum")
        self.fc: nn.Linear | None = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> InceptionOutput:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = x64 = max_pool(x, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = x192 = max_pool(x, stride=2)
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))))
        x = self.Mixed_6d(x)
        first = x[:, :7].permute(0, 2, 3, 1)  # the 1x1 branch comes first in the concatenation
        spatial = first.to(torch.float32, memory_format=torch.contiguous_format).flatten(1)
        x = x768 = self.Mixed_6e(x)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        features, *means = (y.mean(dim=(2, 3), dtype=torch.float32) for y in (x, x64, x192, x768))
        logits = None if self.fc is None else F.linear(features, self.fc.weight.float())
        return InceptionOutput(features, logits, spatial, *means)

    def fold(self) -> Inception:
        """Folds every batch norm into its convolution, in place."""
        for module in list(self.modules()):
            if isinstance(module, Convolution):
                module.fold()
        return self

    def merge(self) -> Inception:
        """Merges convolutions of each block, in place, after `fold`: 67 are left of 94."""
        for module in list(self.modules()):
            if isinstance(module, Mixed):
                module.merge()
        return self

    def halve(self, channels: int) -> Inception:
        """Convolutions in float16, in place, after `merge`; the first of them for images with `channels` channels, of
        which those after the third are not looked at."""
        first = self.Conv2d_1a_3x3.conv
        first.weight = nn.Parameter(F.pad(first.weight, (0, 0, 0, 0, 0, channels - 3)), requires_grad=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.half()
        return self


def load_inception(path: str | Path) -> Inception:
    """The network with weights from a .pth or .safetensors file in either public layout, frozen, in evaluation mode.

    Layouts: module names as here (pytorch-fid's and torch-fidelity's released files), or `blocks.i.j...` (the state of
    pytorch-fid's wrapper, which has no classifier: `fc` is None then). Raises UserError for a missing file or weights
    of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. Inception features need the weights of the 2015 TensorFlow graph: put"
            " pt_inception-2015-12-05-6726825d.pth (SHA-256 begins 6726825d) there, or name the place it has"
        )
    weights = {_module_name(key): value for key, value in read_state(path).items()}
    network = Inception()
    if "fc.weight" not in weights:
        network.fc = None
    counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
    check_state(counters | weights, network.state_dict(), str(path), "the FID Inception network")
    network.load_state_dict(counters | weights)  # the counters of batch norm are not used and may be missing
    return network.eval().requires_grad_(False)


def _module_name(key: str) -> str:
    """`blocks.2.1.branch1x1.conv.weight` of the wrapper -> `Mixed_5c.branch1x1.conv.weight`; other keys unchanged."""
    if not key.startswith("blocks."):
        return key
    _, i, j, rest = key.split(".", 3)
    return f"{WRAPPER[i][j]}.{rest}"
