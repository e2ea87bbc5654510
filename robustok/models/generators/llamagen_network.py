"""The network of LlamaGen's GPT: a causal transformer over image tokens in raster order (arXiv 2406.06525).

The sequence is [class vector, token 0, token 1, ...]; place p of it sees places 0..p and predicts token p. Parameters
carry the published names, so published weights load as they are.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model_configs import LlamaGenConfig
from ..rotary import grid_angles
from .autoregressive import check_shape
from .classes import ClassEmbedding
from .llamagen_layers import NORM_EPS, LlamaGenBlock

PREFIX = 1  # places before the first image token: the class vector


class LlamaGenNetwork(nn.Module):
    """Teacher-forced logits of L tokens out of K codes for C classes; class C is the null class.

    config: LlamaGenConfig with codebook_size, num_classes and num_tokens given. Raises ValueError where one is missing,
    for a number of heads that does not divide, and for tokens that form no square unless config.rows says their grid,
    or config.positions is "line".
    """

    def __init__(self, config: LlamaGenConfig):
        super().__init__()
        _check(config)
        self.config = config
        self.codebook_size, self.num_classes = config.codebook_size, config.num_classes
        self.num_tokens = config.num_tokens
        self.cls_embedding = ClassEmbedding(config.num_classes, config.width)
        self.tok_embeddings = nn.Embedding(config.codebook_size, config.width)
        self.dropout = nn.Dropout(config.token_dropout)
        self.layers = nn.ModuleList(LlamaGenBlock(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width, eps=NORM_EPS)
        self.output = nn.Linear(config.width, config.codebook_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(self.output.weight)

    def forward(self, tokens: Tensor, classes: Tensor, orders: Tensor | None = None) -> Tensor:
        """Teacher-forced logits.

        Args:
            tokens: int64 (B, L), 0..K-1.
            classes: int64 (B,), 0..C; C is the null class.
            orders: None or the raster order (B, L), which is the only one; ValueError for another.

        Returns: (B, L, K), differentiable; row i predicts token i from those before it.
        """
        if orders is not None and not torch.equal(orders, torch.arange(self.num_tokens).to(orders).expand_as(orders)):
            raise ValueError("order: LlamaGen predicts tokens in raster order alone, found another")
        x = torch.cat([self.cls_embedding(classes)[:, None], self.tok_embeddings(tokens[:, :-1])], 1)
        x = self.dropout(x)
        cos, sin = self.rotation()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.output(self.norm(x))

    def rotation(self) -> tuple[Tensor, Tensor]:
        """Cosine and sine of places 0..L-1, each float32 (L, 1, head width / 2), for `rotate`.

        Both are 0 at the class vector's place, as in the published code: its query and key become zero, so that later
        places see its value with weight exp(0).
        """
        config = self.config
        index = torch.arange(self.num_tokens - 1, device=self.output.weight.device)
        rows = columns = index
        if config.positions == "grid":
            width = self.num_tokens // (config.rows or math.isqrt(self.num_tokens))
            rows, columns = index // width, index % width
        angles = grid_angles(rows, columns, config.width // config.heads)
        cos, sin = F.pad(torch.stack([angles.cos(), angles.sin()]).float(), (0, 0, PREFIX, 0))[:, :, None]
        return cos, sin


def _check(config: LlamaGenConfig) -> None:
    check_shape(config)
    if config.width // config.heads % 4:
        found = f"width {config.width} and heads {config.heads}"
        raise ValueError(f"width / heads must be a multiple of 4, for the pairs of both directions, found {found}")
    if config.kv_heads is not None and (config.kv_heads < 1 or config.heads % config.kv_heads):
        raise ValueError(f"kv_heads must divide heads, found kv_heads {config.kv_heads} and heads {config.heads}")
    if config.positions == "line":
        return
    if config.rows is None and math.isqrt(config.num_tokens) ** 2 != config.num_tokens:
        raise ValueError(
            f"num_tokens: found {config.num_tokens}, expected a square number of tokens, which form a grid (or rows of "
            "another grid); for tokens without one: positions 'line'"
        )
    if config.rows is not None and (config.rows < 1 or config.num_tokens % config.rows):
        raise ValueError(f"rows: found {config.rows}, expected a number that divides num_tokens = {config.num_tokens}")
