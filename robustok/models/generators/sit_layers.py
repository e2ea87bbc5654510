"""The layers of SiT (arXiv 2401.08740) and LightningDiT (arXiv 2501.01423): embeddings, attention, blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model_configs import SiTConfig
from ..compiling import CompiledBlock
from ..rotary import SLOWEST, falling_angles, grid_angles, rotate
from .rar_layers import AdaLN

NORM_EPS = 1e-6
HEAD_NORM_EPS = {"layer": 1e-5, "rms": 1e-6}  # of queries and keys
FREQUENCIES = 256  # numbers that a time is described by


class TimeEmbedding(nn.Module):
    """Times (B,) in [0, 1] -> (B, width)."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(time_waves(t).to(self.mlp[0].weight.dtype))


def time_waves(t: Tensor) -> Tensor:
    """Times (B,) as cosines and then sines of falling frequencies, float32 (B, FREQUENCIES)."""
    half = FREQUENCIES // 2
    falling = torch.exp(-math.log(SLOWEST) / half * torch.arange(half, device=t.device, dtype=torch.float32))
    angles = t.float()[:, None] * falling
    return torch.cat([angles.cos(), angles.sin()], 1)


class GridPatches(nn.Module):
    """Latents (B, D, H, W) -> patches (B, N, width), row by row."""

    def __init__(self, config: SiTConfig):
        super().__init__()
        size = config.patch_size
        self.proj = nn.Conv2d(config.latent_width, config.width, size, stride=size)

    def forward(self, z: Tensor) -> Tensor:
        return self.proj(z).flatten(2).mT


def make_norm(config: SiTConfig) -> nn.Module:
    """The norm before a branch: LayerNorm without parameters, or RMSNorm with a weight."""
    if config.norm == "rms":
        return nn.RMSNorm(config.width, eps=NORM_EPS)
    return nn.LayerNorm(config.width, eps=NORM_EPS, elementwise_affine=False)


class SiTAttention(nn.Module):
    """Multi-head attention over all places; (B, N, width) -> the same."""

    def __init__(self, config: SiTConfig):
        super().__init__()
        self.heads, head_width = config.heads, config.width // config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        norm, eps = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm, HEAD_NORM_EPS[config.norm]
        self.q_norm = norm(head_width, eps=eps) if config.qk_norm else nn.Identity()
        self.k_norm = norm(head_width, eps=eps) if config.qk_norm else nn.Identity()
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class SiTMLP(nn.Module):
    """Two linear layers with tanh GELU between them."""

    def __init__(self, config: SiTConfig):
        super().__init__()
        hidden = int(config.width * config.mlp_ratio)
        self.fc1, self.fc2 = nn.Linear(config.width, hidden), nn.Linear(hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """Linear layers with a gate (arXiv 2002.05202), two thirds as wide, so that it has as many weights as an MLP."""

    def __init__(self, config: SiTConfig):
        super().__init__()
        hidden = int(2 / 3 * config.width * config.mlp_ratio)
        self.w12, self.w3 = nn.Linear(config.width, 2 * hidden), nn.Linear(hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(gate) * value)


class SiTBlock(CompiledBlock):
    """Pre-norm block; shift, scale and gate of both branches come from the condition."""

    def __init__(self, config: SiTConfig):
        super().__init__()
        self.norm1, self.norm2 = make_norm(config), make_norm(config)
        self.attn = SiTAttention(config)
        self.mlp = SwiGLU(config) if config.mlp == "swiglu" else SiTMLP(config)
        self.adaLN_modulation = AdaLN(config.width, 6)

    def forward(self, x: Tensor, condition: Tensor, rotation: Tensor | None) -> Tensor:
        """x: (B, N, width). condition: (B, 1, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition, None)
        x = torch.addcmul(x, gate1, self.attn(torch.addcmul(shift1, self.norm1(x), 1 + scale1), rotation))
        return torch.addcmul(x, gate2, self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2)))


class VelocityHead(nn.Module):
    """Modulated norm, then a linear map to the velocity of each place."""

    def __init__(self, config: SiTConfig, outputs: int):
        super().__init__()
        self.norm_final = make_norm(config)
        self.adaLN_modulation = AdaLN(config.width, 2)
        self.linear = nn.Linear(config.width, outputs)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition, None)
        return self.linear(torch.addcmul(shift, self.norm_final(x), 1 + scale))


def sequence_positions(length: int, width: int) -> Tensor:
    """(1, length, width): even channels sines, odd ones cosines, of falling frequencies."""
    return torch.stack(_waves(torch.arange(length), width), -1).flatten(1)[None].float()


def grid_positions(rows: int, columns: int, width: int) -> Tensor:
    """(1, rows * columns, width), row by row: the first half of the channels tells the column, the second the row."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    parts = [*_waves(column.flatten(), width // 2), *_waves(row.flatten(), width // 2)]
    return torch.cat(parts, 1)[None].float()


def _waves(places: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    angles = falling_angles(places, channels)
    return angles.sin(), angles.cos()


def latent_grid(config: SiTConfig) -> tuple[int, int]:
    """Rows and columns of latents, of which a model of a grid makes patches."""
    rows = config.rows or math.isqrt(config.num_latents)
    return rows, config.num_latents // rows


def rotations(config: SiTConfig) -> Tensor:
    """(2, N, head width / 2): cosine and sine of the angle of each pair of channels at each place (RoPE).

    On a grid the first half of the pairs turns with the row and the second half with the column.
    """
    width = config.width // config.heads
    if not config.grid:
        angles = falling_angles(torch.arange(config.num_latents), width)
    else:
        patches = (torch.arange(side // config.patch_size) for side in latent_grid(config))
        row, column = torch.meshgrid(*patches, indexing="ij")
        angles = grid_angles(row.flatten(), column.flatten(), width)
    return torch.stack([angles.cos(), angles.sin()]).float()
