"""The released generator layout (`rar_b.bin`, `rar_l.bin`): a plain state dict whose sizes are read off its tensors."""

from torch import Tensor

from ..config import RARConfig
from .tensors import block_count, require

MARK = "target_aware_pos_embed"  # no other known layout has this table
LAYOUT = f"released RAR generator (it has {MARK})"
EXTRA_POSITIONS = 1024  # the position tables hold this many rows more than there are image tokens


def recognises(keys) -> bool:
    """Whether a state dict with these keys is a RAR generator."""
    return MARK in keys


def config_of(state: dict[str, Tensor], where: str) -> RARConfig:
    """Sizes of the generator in `state`. Raises UserError when the tensors that tell them are missing."""
    needed = ("blocks.0.attn.q_norm.weight", "blocks.0.mlp.fc1.weight", "embeddings.weight", "lm_head.weight")
    require(state, needed, where, LAYOUT)
    width = state[MARK].shape[-1]
    codes = state["lm_head.weight"].shape[0]
    return RARConfig(
        width=width,
        depth=block_count(state),
        heads=width // state["blocks.0.attn.q_norm.weight"].shape[0],
        mlp_width=state["blocks.0.mlp.fc1.weight"].shape[0],
        codebook_size=codes,
        num_classes=state["embeddings.weight"].shape[0] - codes - 2,  # a mask token and the null class come with them
        num_tokens=state[MARK].shape[1] - EXTRA_POSITIONS,
    )
