"""Published DINO and DINOv2 weights: timm's, Hugging Face's and the original keys -> ours (which are timm's).

DINOv2 comes with patches of 14 pixels and a position table of 37 x 37 (original, Hugging Face) or another grid (timm);
both are resampled to the patches and grid asked for, as timm does it.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.text import some_of

# Hugging Face's names -> ours, replaced in this order; query, key and value are joined afterwards.
HUGGING_FACE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "encoder.layer.": "blocks.",
    "layernorm.": "norm.",
    ".attention.attention.": ".attn.",
    ".attention.output.dense.": ".attn.proj.",
    ".layernorm_before.": ".norm1.",  # these four are those of the first DINO's ViT
    ".layernorm_after.": ".norm2.",
    ".intermediate.dense.": ".mlp.fc1.",
    ".output.dense.": ".mlp.fc2.",
    ".layer_scale1.lambda1": ".ls1.gamma",
    ".layer_scale2.lambda1": ".ls2.gamma",
}
# Of the published networks, but no part of the ViT used here.
UNUSED = ("mask_token", "embeddings.mask_token", "head.", "classifier.", "pooler.")


def recognised_layout(state: dict[str, Tensor], where: str) -> str:
    """Which layout the keys are: "Hugging Face", "timm" or "original". Raises UserError for anything else."""
    if "embeddings.cls_token" in state:
        return "Hugging Face"
    if {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= set(state):
        return "original" if "mask_token" in state else "timm"
    raise UserError(
        f"{where}: no DINO weights: expected cls_token, pos_embed and patch_embed.proj.weight (timm, original) or "
        f"embeddings.cls_token (Hugging Face), found {some_of(state)}"
    )


def to_vit(state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Weights in any of the three layouts -> our ViT's keys, float32, patches and positions as published.

    Raises: UserError for another network, and for variants with register tokens or gated MLPs.
    """
    state = {key.removeprefix("dinov2.").removeprefix("backbone."): value for key, value in state.items()}
    layout = recognised_layout(state, where)
    if any("reg_token" in key or "register_tokens" in key for key in state):
        raise UserError(f"{where}: {layout} DINOv2 weights with register tokens; expected the variant without")
    if any(".mlp.w12." in key or ".mlp.weights_in." in key for key in state):
        raise UserError(f"{where}: {layout} DINOv2-giant weights (gated MLP); expected ViT-S, B or L")
    state = {key: value.float() for key, value in state.items() if not key.startswith(UNUSED)}
    return _join_attention(state) if layout == "Hugging Face" else state


def _join_attention(state: dict[str, Tensor]) -> dict[str, Tensor]:
    joined: dict[str, Tensor] = {}
    for key, value in state.items():
        for theirs, ours in HUGGING_FACE.items():
            key = key.replace(theirs, ours)
        joined[key] = value
    for key in [key for key in joined if ".attn.query." in key]:
        parts = [joined.pop(key.replace("query", part)) for part in ("query", "key", "value")]
        joined[key.replace("query", "qkv")] = torch.cat(parts)
    return joined


def resample_patches(weight: Tensor, patch_size: int) -> Tensor:
    """Patch embedding (width, 3, p, p) for another patch size, as timm does it (FlexiViT, arXiv 2212.08013, eq. 5).

    The new kernel gives resized patches the value that the old one gave the patches themselves, in the least-squares
    sense: pinv(R^T) w, with R the matrix of the bicubic, antialiased resize.
    """
    old = weight.shape[-1]
    if old == patch_size:
        return weight
    basis = torch.eye(old * old).reshape(old * old, 1, old, old)
    size = (patch_size, patch_size)
    resized = F.interpolate(basis, size=size, mode="bicubic", antialias=True, align_corners=False)
    inverse = np.linalg.pinv(resized.flatten(1).double().numpy())  # rows of `resized`: R^T
    kernel = weight.flatten(2).double() @ torch.from_numpy(inverse).T
    return kernel.to(weight.dtype).reshape(*weight.shape[:2], *size)
