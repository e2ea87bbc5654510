"""The layers of RAR: causal attention with normed queries and keys, and adaLN modulation of every branch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model_configs import RARConfig
from ...ops.decoding import NewPlaces
from ..compiling import CompiledBlock

NORM_EPS = 1e-6


class RARAttention(nn.Module):
    """Causal multi-head attention with layer-normed queries and keys; (B, T, width) -> (B, T, width)."""

    def __init__(self, config: RARConfig):
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        head_width = config.width // config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.q_norm = nn.LayerNorm(head_width, eps=NORM_EPS)
        self.k_norm = nn.LayerNorm(head_width, eps=NORM_EPS)
        self.proj = nn.Linear(config.width, config.width)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., 3 * width) -> normed queries, normed keys, values: each (..., heads, head width)."""
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return self.q_norm(q), self.k_norm(k), v

    def new_places(self, qkv: Tensor) -> NewPlaces:
        """What sampling stores and attends with, from qkv (R, 3 * width)."""
        norms = tuple(part.detach() for norm in (self.q_norm, self.k_norm) for part in (norm.weight, norm.bias))
        return NewPlaces(qkv, self.split, norms, NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in self.split(self.qkv(x)))
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.proj(x.transpose(1, 2).flatten(2))


class RARMLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, config: RARConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(F.gelu(self.fc1(x))))


class AdaLN(nn.Sequential):
    """`parts` modulations (shifts, scales, gates) from the condition: SiLU, then one linear layer."""

    def __init__(self, width: int, parts: int):
        super().__init__(nn.SiLU(), nn.Linear(width, parts * width))
        self.parts = parts

    def forward(self, condition: Tensor, rows: Tensor | None) -> tuple[Tensor, ...]:
        """The parts, each (B, T, width), from U distinct conditions (U, T, width).

        rows: int64 (B,), which of them each sequence has; None: U = B, in order.
        """
        values = super().forward(condition)
        return (values if rows is None else values.index_select(0, rows)).chunk(self.parts, dim=-1)


class RARBlock(CompiledBlock):
    """Pre-norm block; shift, scale and gate of both branches come from the condition."""

    def __init__(self, config: RARConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.attn = RARAttention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.mlp = RARMLP(config)
        self.dropout = nn.Dropout(config.dropout)
        self.adaLN_modulation = AdaLN(config.width, 6)

    def forward(self, x: Tensor, condition: Tensor, rows: Tensor | None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition, rows)
        x = x + gate1 * self.dropout(self.attn(torch.addcmul(shift1, self.norm1(x), 1 + scale1)))
        return x + gate2 * self.dropout(self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2)))


class FinalNorm(nn.Module):
    """Norm without parameters in front of the head. Its modulation is (scale, shift); in blocks shift comes first."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.adaLN_modulation = AdaLN(width, 2)

    def forward(self, x: Tensor, condition: Tensor, rows: Tensor | None) -> Tensor:
        scale, shift = self.adaLN_modulation(condition, rows)
        return torch.addcmul(shift, self.norm(x), 1 + scale)
