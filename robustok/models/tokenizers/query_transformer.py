"""A transformer whose queries read a memory: what makes a sequence of latents of a grid, and a grid of a sequence.

GigaTok (arXiv 2504.08736). Positions are learned tables, added in every layer to queries and keys, never to values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..compiling import CompiledBlock
from ..vit import MLP, Attention

NORM_EPS = 1e-5


class ReadingAttention(Attention):
    """Multi-head attention without mask from one sequence to another, or to itself."""

    def forward(self, x: Tensor, positions: Tensor, read: Tensor, read_positions: Tensor) -> Tensor:
        """x (B, N, width) with positions (N, width), `read` (B, M, width) with (M, width) -> (B, N, width)."""
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        inputs = x + positions, read + read_positions, read
        q, k, v = (
            F.linear(y, weight, bias).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, ., width / heads)
            for y, weight, bias in zip(inputs, weights, biases, strict=True)
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ReadingBlock(CompiledBlock):
    """Pre-norm block: queries attend to each other, then to the memory, then each goes through an MLP."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps=NORM_EPS) for _ in range(3))
        self.attn = ReadingAttention(width, heads)
        self.read = ReadingAttention(width, heads)
        self.mlp = MLP(width, round(width * mlp_ratio), "none")

    def forward(self, x: Tensor, positions: Tensor, memory: Tensor, memory_positions: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, positions, y, positions)
        x = x + self.read(self.norm2(x), positions, memory, memory_positions)
        return x + self.mlp(self.norm3(x))


class QueryTransformer(nn.Module):
    """Queries (B, N, width) read a memory (B, M, channels), which is normalised and embedded first.

    Args:
        queries, memory: N and M.
        channels: width of the memory before it is embedded.
    Raises: ValueError for heads that do not divide the width.
    """

    def __init__(
        self, *, queries: int, memory: int, channels: int, width: int, depth: int, heads: int, mlp_ratio: float
    ):
        super().__init__()
        self.first_norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.project = nn.Linear(channels, width)
        self.positions = nn.Parameter(torch.empty(queries, width))
        self.memory_positions = nn.Parameter(torch.empty(memory, width))
        self.blocks = nn.ModuleList(ReadingBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        for table in (self.positions, self.memory_positions):
            nn.init.trunc_normal_(table, std=0.02)

    def embed(self, memory: Tensor) -> Tensor:
        """(B, M, channels) -> (B, M, width)."""
        return self.project(self.first_norm(memory))

    def read(self, queries: Tensor, memory: Tensor, blocks: int | None = None) -> Tensor:
        """Queries (B, N, width) and embedded memory -> (B, N, width) after the first `blocks` blocks (None: all)."""
        for block in self.blocks[:blocks]:
            queries = block(queries, self.positions, memory, self.memory_positions)
        return queries


def nested_averages(maps: Tensor, count: int) -> Tensor:
    """Averages of a map over ever smaller blocks: (B, C, g, g) -> (B, count, C), with count = 1 + 1 + 2 + 4 + ...

    The first two are of the whole; then it is halved again and again, columns before rows. Blocks are in row-major
    order, as the images of each halving are coarse pictures of it.
    """
    averages = [maps.mean((2, 3))[..., None]]
    for level in range(count.bit_length() - 1):
        averages.append(F.adaptive_avg_pool2d(maps, _blocks(level)).flatten(2))
    return torch.cat(averages, 2).mT


def averaged_counts(grid: int) -> list[int]:
    """For which counts `nested_averages` has blocks of one size on a grid x grid map."""
    counts, level = [1], 0
    while all(grid % parts == 0 for parts in _blocks(level)):
        counts.append(2 ** (level + 1))
        level += 1
    return counts


def _blocks(level: int) -> tuple[int, int]:
    """Rows and columns of the blocks after so many halvings."""
    return 2 ** (level // 2), 2 ** ((level + 1) // 2)
