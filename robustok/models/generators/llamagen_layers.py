"""The layers of LlamaGen's GPT: RMS norm, causal attention with rotary positions, SwiGLU; none has a bias."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from ...model_configs import LlamaGenConfig
from ...ops.decoding import NewPlaces
from ..compiling import CompiledBlock
from ..rotary import rotate

NORM_EPS = 1e-5


class LlamaGenAttention(nn.Module):
    """Causal attention (B, T, width) -> (B, T, width); several query heads may share a head of keys and values."""

    def __init__(self, config: LlamaGenConfig):
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads or config.heads
        self.head_width = config.width // config.heads
        self.wqkv = nn.Linear(config.width, (self.heads + 2 * self.kv_heads) * self.head_width, bias=False)
        self.wo = nn.Linear(config.width, config.width, bias=False)

    def split(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., (heads + 2 kv_heads) head_width) -> turned queries, turned keys, values: (..., heads, head_width)."""
        turning, v = qkv.unflatten(-1, (-1, self.head_width)).split([self.heads + self.kv_heads, self.kv_heads], -2)
        q, k = rotate(turning, cos, sin).split([self.heads, self.kv_heads], -2)
        return q, k, v

    def new_places(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> NewPlaces:
        """What sampling stores and attends with, from qkv (R, (heads + 2 kv_heads) head_width)."""
        return NewPlaces(qkv, partial(self.split, cos=cos, sin=sin), rotation=(cos, sin))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in self.split(self.wqkv(x), cos, sin))
        shared = self.kv_heads < self.heads
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shared)
        return self.wo(x.transpose(1, 2).flatten(2))


class LlamaGenMLP(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: LlamaGenConfig):
        super().__init__()
        self.w1 = nn.Linear(config.width, config.mlp_width, bias=False)
        self.w3 = nn.Linear(config.width, config.mlp_width, bias=False)
        self.w2 = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class LlamaGenBlock(CompiledBlock):
    """Pre-norm block: attention, then SwiGLU."""

    def __init__(self, config: LlamaGenConfig):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=NORM_EPS)
        self.attention = LlamaGenAttention(config)
        self.ffn_norm = nn.RMSNorm(config.width, eps=NORM_EPS)
        self.feed_forward = LlamaGenMLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), cos, sin))
        return x + self.dropout(self.feed_forward(self.ffn_norm(x)))
