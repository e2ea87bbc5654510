"""What flow generators are measured against: plain PyTorch as SiT is published, with the same weights."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustok.model_configs import SiTConfig
from robustok.models.generators.sit_layers import time_waves


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class PlainAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, places, width = x.shape
        qkv = self.qkv(x).reshape(count, places, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(count, places, width))


class PlainMLP(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class PlainBlock(nn.Module):
    def __init__(self, config: SiTConfig):
        super().__init__()
        width = config.width
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.attn = PlainAttention(width, config.heads)
        self.mlp = PlainMLP(width, int(width * config.mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class PlainSiT(nn.Module):
    """The network on a sequence of latents; its parameters have the published names, which are ours too."""

    def __init__(self, config: SiTConfig):
        super().__init__()
        width = config.width
        self.x_embedder = nn.Linear(config.latent_width, width)
        self.register_buffer("pos_embed", torch.zeros(1, config.num_latents, width))
        self.t_embedder, self.y_embedder, self.final_layer = nn.Module(), nn.Module(), nn.Module()
        self.t_embedder.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.y_embedder.embedding_table = nn.Embedding(config.num_classes + 1, width)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.depth))
        self.final_layer.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.final_layer.linear = nn.Linear(width, config.latent_width)
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder.mlp(time_waves(t)) + self.y_embedder.embedding_table(y)
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.final_layer.adaLN_modulation(c).chunk(2, dim=1)
        return self.final_layer.linear(modulate(self.final_layer.norm_final(x), shift, scale))


@torch.no_grad()
def euler(model: PlainSiT, z: Tensor, y: Tensor, null: int, steps: int, scale: float, doubled: bool) -> Tensor:
    """Guided Euler steps with a float64 state. doubled: the batch is doubled twice, as the published script does."""
    if doubled:
        z, y = torch.cat([z, z]), torch.cat([y, torch.full_like(y, null)])
    x, times = z.double(), torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    both = torch.cat([y, torch.full_like(y, null)])
    for now, then in pairwise(times):
        t = torch.full((2 * len(x),), now.item(), dtype=torch.float64)
        out = model(torch.cat([x, x]).float(), t.float(), both).double()
        conditional, unconditional = out.chunk(2)
        x = x + (then - now) * (unconditional + scale * (conditional - unconditional))
    return (x.chunk(2)[0] if doubled else x).float()


def velocity_loss(model: PlainSiT, latents: Tensor, y: Tensor, null: int) -> Tensor:
    """Lognormal times, dropped classes, linear path; drawn from torch's generator."""
    t = torch.sigmoid(torch.randn(len(latents)))
    noise = torch.randn_like(latents)
    y = torch.where(torch.rand(len(y)) < 0.1, null, y)
    x_t = (1 - t[:, None, None]) * latents + t[:, None, None] * noise
    return ((model(x_t, t, y) - (noise - latents)) ** 2).flatten(1).mean(1).mean()
