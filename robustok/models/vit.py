"""Vision transformer: the pre-norm blocks shared by the tokenizer and by the frozen DINO networks.

Parameter names follow timm's (`blocks.0.attn.qkv.weight`, `ls1.gamma`, ...), and so do the published weights.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.sizes import Size, area, as_size, say_size, sides
from .compiling import CompiledBlock

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention without mask; (B, T, width) -> (B, T, width)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide width, found width {width} and heads {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, width / heads)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    """Two linear layers with a GELU between them; `gelu` is "none" (exact, by erf) or "tanh" (approximate)."""

    def __init__(self, width: int, hidden: int, gelu: str):
        super().__init__()
        self.gelu = gelu
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate=self.gelu))


class LayerScale(nn.Module):
    """A learned factor for each channel, small at first, so that a deep network starts near the identity."""

    def __init__(self, width: int, initial: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    """Stochastic depth: in training, a sample's branch is zero with probability `rate`, else divided by 1 - rate."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        kept = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.rate
        return x * (kept / (1.0 - self.rate)).to(x.dtype)


class Block(CompiledBlock):
    """Pre-norm transformer block: x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x)))."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        gelu: str = "none",
    ):
        super().__init__()
        scale = nn.Identity if layer_scale is None else lambda: LayerScale(width, layer_scale)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads)
        self.ls1 = scale()
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, round(width * mlp_ratio), gelu)
        self.ls2 = scale()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class PatchEmbed(nn.Module):
    """Linear embedding of square patches: images (B, 3, H, W) -> tokens (B, P, width), row-major."""

    def __init__(self, patch_size: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


def join_patches(tokens: Tensor, grid: Size) -> Tensor:
    """The pixels of patches, each ordered (row, column, channel), as images.

    Tokens (B, rows * columns, 3 * p * p) of a grid, row-major -> (B, 3, rows * p, columns * p).
    """
    size = round((tokens.shape[-1] / 3) ** 0.5)
    x = tokens.unflatten(2, (size, size, 3)).unflatten(1, sides(grid))
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # patch row, row in it, patch column, column in it


class ViT(nn.Module):
    """Vision transformer with one class token and a learned position table.

    Args:
        grid: patches along one side, or (rows, columns) of them; the position table has a row for the class token,
            then one for each patch.
        patch_size: pixels along one side of a patch; None builds no patch embedding (tokens are given instead).
        final_norm: LayerNorm after the last block (the DINO read-outs of the discriminator have none).
        gelu: "none" for the exact GELU, "tanh" for its approximation.
    """

    def __init__(
        self,
        *,
        grid: Size,
        patch_size: int | None,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        final_norm: bool = True,
        gelu: str = "none",
    ):
        super().__init__()
        self.grid, self.width = grid, width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + area(grid), width))
        if patch_size is not None:
            self.patch_embed = PatchEmbed(patch_size, width)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]  # rises linearly with depth
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, layer_scale, rate, gelu) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS) if final_norm else nn.Identity()
        self.apply(_initialise)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def embed(self, tokens: Tensor) -> Tensor:
        """Put the class token before tokens (B, P, width) and add the position table."""
        cls_token = self.cls_token.expand(tokens.shape[0], -1, -1)
        return torch.cat([cls_token, tokens], dim=1) + self.pos_embed

    def transform(self, x: Tensor) -> Tensor:
        """All blocks and the final norm; (B, T, width) -> (B, T, width) for any T."""
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised as the weights expect -> (B, 1 + P, width), class token first."""
        return self.transform(self.embed(self.patch_embed(images)))


def _initialise(module: nn.Module) -> None:
    """Xavier-uniform linear layers with zero bias: small networks learn from the first steps on."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, PatchEmbed):
        nn.init.xavier_uniform_(module.proj.weight.flatten(1))
        nn.init.zeros_(module.proj.bias)


def resample_positions(pos_embed: Tensor, grid: Size, prefix: int = 1, old: Size | None = None) -> Tensor:
    """Resample a position table to another grid, as timm does: bicubic with antialiasing, in float32.

    Args:
        pos_embed: (1, prefix + P, width) for P places of a grid, row-major; the first `prefix` rows (class token) are
            kept as they are.
        grid: the new number of patches along one side, or (rows, columns) of them.
        old: the grid of the table; None: a square.

    Returns: (1, prefix + rows * columns, width), differentiable.
    Raises: ValueError when the table does not hold the grid `old`.
    """
    first, table = pos_embed[:, :prefix], pos_embed[:, prefix:]
    old = round(table.shape[1] ** 0.5) if old is None else old
    if area(old) != table.shape[1]:
        found = f"found {table.shape[1]} rows"
        raise ValueError(f"pos_embed must hold a grid of {say_size(old)} after {prefix} row(s), {found}")
    if sides(old) == sides(grid):
        return pos_embed
    maps = table.float().unflatten(1, sides(old)).permute(0, 3, 1, 2)
    maps = F.interpolate(maps, size=sides(grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, maps.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


def patch_grid(image_size: Size, patch_size: int, name: str = "patch_size") -> Size:
    """Patches along one side of an image, or (rows, columns) of them.

    Raises: ValueError, with the name of the patch's size, where an image is no whole number of patches.
    """
    height, width = sides(image_size)
    if height % patch_size or width % patch_size:
        found = f"{image_size} and {patch_size}"
        raise ValueError(f"image_size must be a multiple of {name}, found {found}")
    return as_size(height // patch_size, width // patch_size)


def only_squares(image_size: Size, what: str) -> int:
    """The side of a square image. Raises: ValueError, which names the model as `what`, for another shape."""
    if not isinstance(image_size, int):
        raise ValueError(f"image_size: found {say_size(image_size)}, but {what} takes square images alone")
    return image_size
