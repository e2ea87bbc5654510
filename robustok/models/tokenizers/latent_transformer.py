"""A transformer over image tokens and latent tokens: of MAETok (arXiv 2502.03444), SoftVQ and TiTok.

Positions of image tokens are a learned table that is added, or rotations of queries and keys by learned frequencies
("mixed" rotary positions, arXiv 2403.13298). Latent tokens come with positions of their own and are never rotated.
A decoder may be modulated: the latents themselves scale and shift the normalised values at the latent tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.sizes import Size, area, sides
from ..compiling import CompiledBlock
from ..rotary import rotate
from ..vit import MLP, NORM_EPS, Attention, DropPath, LayerScale

ROTARY_BASE = 10.0  # ratio of the largest to the smallest initial frequency


class RotaryAttention(Attention):
    """Self-attention; (B, T, width) -> (B, T, width). Queries and keys are rotated where there are angles."""

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        """angles: (heads, T, width / heads / 2), one a pair of neighbouring channels; None: no rotation."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, T, width / heads)
        if angles is not None:
            cosines, sines = angles.cos().to(q.dtype), angles.sin().to(q.dtype)
            q, k = rotate(q, cosines, sines), rotate(k, cosines, sines)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class PlainBlock(CompiledBlock):
    """Pre-norm transformer block, as models/vit.py has it, with rotated attention."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        layer_scale: float | None,
        drop_path: float,
        norm_eps: float = NORM_EPS,
    ):
        super().__init__()
        scale = nn.Identity if layer_scale is None else lambda: LayerScale(width, layer_scale)
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = RotaryAttention(width, heads)
        self.ls1 = scale()
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = MLP(width, round(width * mlp_ratio), "none")
        self.ls2 = scale()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, angles: Tensor | None, latents: Tensor | None) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), angles)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class ModulatedNorm(nn.Module):
    """LayerNorm without weights of its own; at the last L tokens the L latents scale and shift its result."""

    def __init__(self, width: int, latent_width: int, uses: int = 1):
        super().__init__()
        self.width, self.uses = width, uses
        self.modulation = nn.Linear(latent_width, 2 * uses * width)

    def tables(self, latents: Tensor) -> tuple[Tensor, ...]:
        """latents (B, L, D) -> shift and scale, each (B, L, width), for each use in turn."""
        return self.modulation(F.silu(latents)).chunk(2 * self.uses, -1)

    def apply_to(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        x = F.layer_norm(x, (self.width,), eps=NORM_EPS)
        rest, last = x[:, : -shift.shape[1]], x[:, -shift.shape[1] :]
        return torch.cat([rest, last * scale + shift], 1)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        return self.apply_to(x, *self.tables(latents))


class ModulatedBlock(CompiledBlock):
    """Transformer block whose two norms are modulated by the latents."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, latent_width: int, drop_path: float):
        super().__init__()
        self.norm = ModulatedNorm(width, latent_width, uses=2)
        self.attn = RotaryAttention(width, heads)
        self.mlp = MLP(width, round(width * mlp_ratio), "none")
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, angles: Tensor | None, latents: Tensor) -> Tensor:
        shift1, scale1, shift2, scale2 = self.norm.tables(latents)
        x = x + self.drop_path(self.attn(self.norm.apply_to(x, shift1, scale1), angles))
        return x + self.drop_path(self.mlp(self.norm.apply_to(x, shift2, scale2)))


class LatentTransformer(nn.Module):
    """Image tokens (B, P, width), row-major over `grid`, and latent tokens (B, L, width) -> the same, after all blocks.

    Args:
        table: a learned table of positions is added to class token and image tokens.
        class_token: one goes before the image tokens; needed with a table, which has an entry for it.
        rotary: queries and keys of image tokens are rotated, by frequencies of each block, head and pair of channels.
        modulated_by: width of the latents that modulate the norms; None: plain norms with weights, and LayerScale.
        first_norm: all tokens are normalised before the first block, positions included (TiTok).
        norm_eps: of the plain norms.
    Raises: ValueError for sizes that do not fit together.
    """

    def __init__(
        self,
        *,
        grid: Size,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        layer_scale: float | None,
        drop_path: float,
        table: bool,
        class_token: bool = True,
        rotary: bool = False,
        modulated_by: int | None = None,
        first_norm: bool = False,
        norm_eps: float = NORM_EPS,
    ):
        super().__init__()
        if table and not class_token:
            raise ValueError("a table of positions has an entry for the class token: it cannot be left out")
        if rotary and (width % heads or width // heads % 2):
            raise ValueError(f"rotary positions need an even width of each head, found width {width}, {heads} heads")
        self.grid, self.places = grid, area(grid)
        self.heads, self.modulated = heads, modulated_by is not None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + area(grid), width)) if table else None
        self.frequencies = nn.Parameter(initial_frequencies(depth, heads, width)) if rotary else None
        self.first_norm = nn.LayerNorm(width, eps=norm_eps) if first_norm else nn.Identity()
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]  # rises linearly with depth
        if modulated_by is None:
            blocks = (PlainBlock(width, heads, mlp_ratio, layer_scale, rate, norm_eps) for rate in rates)
            self.norm = nn.LayerNorm(width, eps=norm_eps)
        else:
            blocks = (ModulatedBlock(width, heads, mlp_ratio, modulated_by, rate) for rate in rates)
            self.norm = ModulatedNorm(width, modulated_by)
        self.blocks = nn.ModuleList(blocks)
        self.apply(_initialise)
        for tokens in (self.cls_token, self.pos_embed):
            if tokens is not None:
                nn.init.trunc_normal_(tokens, std=0.02)

    def forward(self, image_tokens: Tensor, latent_tokens: Tensor, latents: Tensor | None = None):
        """(image tokens, latent tokens) after the final norm. latents (B, L, D) modulate, where the blocks ask it."""
        x = image_tokens
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        first = x.shape[1] - self.places  # of the image tokens
        x = self.first_norm(torch.cat([x, latent_tokens], 1))
        for i, block in enumerate(self.blocks):
            x = block(x, self._angles(i, first, x.shape[1]), latents)
        x = self.norm(x, latents) if self.modulated else self.norm(x)
        return x[:, first : first + self.places], x[:, first + self.places :]

    def _angles(self, block: int, first: int, length: int) -> Tensor | None:
        """(heads, T, pairs) of one block; zero for tokens that are no image tokens."""
        if self.frequencies is None:
            return None
        along_x, along_y = self.frequencies[:, block].float().view(2, self.heads, 1, -1)
        place = torch.arange(self.places, device=along_x.device)[:, None]
        columns = sides(self.grid)[1]
        angles = (place % columns) * along_x + (place // columns) * along_y
        return F.pad(angles, (0, 0, first, length - first - self.places))


def initial_frequencies(depth: int, heads: int, width: int) -> Tensor:
    """(2, depth, width / 2), for x and y: geometric magnitudes in two directions at right angles, which are random for
    each head.
    """
    channels = width // heads
    magnitude = ROTARY_BASE ** -(torch.arange(0, channels, 4) / channels)
    direction = 2 * math.pi * torch.rand(depth, heads, 1)
    direction = torch.cat([direction.expand(-1, -1, len(magnitude)), direction + math.pi / 2 + 0 * magnitude], -1)
    both = torch.cat([magnitude, magnitude]) * torch.stack([direction.cos(), direction.sin()])
    return both[..., : channels // 2].flatten(2)


def _initialise(module: nn.Module) -> None:
    """Xavier-uniform linear layers with zero bias; modulation starts as none: scale 1, shift 0."""
    if isinstance(module, ModulatedNorm):
        nn.init.zeros_(module.modulation.weight)
        nn.init.zeros_(module.modulation.bias)
        with torch.no_grad():
            module.modulation.bias.view(-1, 2, module.width)[:, 1] = 1.0
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
