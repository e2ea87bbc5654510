"""The released generator layout (`rar_b.bin`, `rar_l.bin`): a plain state dict whose sizes are read off its tensors."""

from collections.abc import Collection
from typing import Any

from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..model_configs import RARConfig
from .layout import Given, PublishedFile, described
from .tensors import block_count, refuse_other_size, require

MARK = "target_aware_pos_embed"  # no other known layout has this table
EXTRA_POSITIONS = 1024  # the position tables hold this many rows more than there are image tokens
SIZES = ("blocks.0.attn.q_norm.weight", "blocks.0.mlp.fc1.weight", "embeddings.weight", "lm_head.weight")


class RARRelease:
    """Our names are the released ones, so tensors are taken as they are."""

    name = "released RAR generator"
    marks = (MARK,)

    def recognises(self, keys: Collection[str]) -> bool:
        return MARK in keys

    def read(self, file: PublishedFile, given: Given) -> Checkpoint:
        """Raises: UserError for tensors that are missing, and for a size given that is not the file's."""
        where = str(file.path)
        config = self._config(file.state, where)
        refuse_other_size("num_heads", given.num_heads, config.heads, where)
        refuse_other_size("num_tokens", given.num_tokens, config.num_tokens, where)
        return Checkpoint(file.path, described(self), config, file.weights)

    def holds(self, config: RARConfig) -> bool:
        return True

    def write(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The averaged weights as a plain state dict."""
        return {key: tensor.clone() for key, tensor in checkpoint.choose("ema").items()}

    def _config(self, state: dict[str, Tensor], where: str) -> RARConfig:
        require(state, SIZES, where, described(self))
        width = state[MARK].shape[-1]
        codes = state["lm_head.weight"].shape[0]
        return RARConfig(
            width=width,
            depth=block_count(state),
            heads=width // state["blocks.0.attn.q_norm.weight"].shape[0],
            mlp_width=state["blocks.0.mlp.fc1.weight"].shape[0],
            codebook_size=codes,
            num_classes=state["embeddings.weight"].shape[0] - codes - 2,  # beside them a mask token and the null class
            num_tokens=state[MARK].shape[1] - EXTRA_POSITIONS,
        )


RAR_RELEASE = RARRelease()
