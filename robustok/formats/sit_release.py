"""Published SiT generators on latents, as MAETok's authors store them (arXiv 2502.03444): a sequence, or a 2-D grid.

Our names are the published ones. A training checkpoint holds `model`, `ema`, `opt` and `steps`. The number of
classes is that of the rows of the table but one, the null class.
"""

import math
from collections.abc import Collection
from typing import Any

from ..checkpoints.checkpoint import Checkpoint, State
from ..core.errors import UserError
from ..model_configs import SiTConfig
from .layout import Given, PublishedFile, described, under_both_names
from .sources import Source
from .tensors import attention_heads, block_count, refuse_other_size, require

MARKS = ("t_embedder.mlp.0.weight", "y_embedder.embedding_table.weight", "final_layer.linear.weight")
SIZES = ("pos_embed", "blocks.0.mlp.fc1.weight", "blocks.0.adaLN_modulation.1.weight")
Q_NORM = "blocks.0.attn.q_norm.weight"
SIT_SOURCE = Source(
    name="SiT of MAETok",
    files=("maetok-b-128-sit-xl.pt", "softvq-b-64-sit-xl.pt"),
    repository="Hhhhhhao/continuous_tokenizer",
    licence=None,
    weights="ema",
    similarity="l2",
    value_range=(-1.0, 1.0),
    resize="shorter side, box then bicubic",
)


class SiTRelease:
    """Files whose latents are a sequence, or a grid of patches."""

    source = SIT_SOURCE

    def __init__(self, name: str, mark: str, *, grid: bool):
        self.name, self.grid, self.mark = name, grid, mark
        self.marks = (mark, *MARKS)

    def recognises(self, keys: Collection[str]) -> bool:
        return set(self.marks) <= set(keys)

    def read(self, file: PublishedFile, given: Given) -> Checkpoint:
        """Raises: UserError for tensors that are missing, for a size given that is not the file's, and where neither
        the file nor the caller says the number of heads.
        """
        where = str(file.path)
        config = self._config(file.state, given, where)
        return Checkpoint(file.path, described(self), config, under_both_names(file.weights))

    def holds(self, config: SiTConfig) -> bool:
        plain = config.norm == "layer" and config.mlp == "gelu" and not config.rope
        return plain and config.grid == self.grid and config.rows is None

    def write(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """A training checkpoint; the state of its optimiser is left empty."""
        weights = {name: dict(state) for name, state in checkpoint.weights.items()}
        return {"model": weights.get("model", weights["ema"]), "ema": weights["ema"], "opt": {}, "steps": 0}

    def _config(self, state: State, given: Given, where: str) -> SiTConfig:
        require(state, SIZES, where, described(self))
        first, table = state[self.mark], state["y_embedder.embedding_table.weight"]
        width, latent_width = first.shape[0], first.shape[1]
        patch_size = first.shape[2] if self.grid else 1
        outputs, expected = state["final_layer.linear.weight"].shape[0], patch_size**2 * latent_width
        if outputs != expected:
            raise UserError(
                f"{where}: recognised as {described(self)}, but a patch has {outputs} outputs instead of {expected}: "
                "a network that also learns the variance (the original SiT and DiT) is not supported"
            )
        norm = state.get(Q_NORM)
        heads = attention_heads(width, given.num_heads, where) if norm is None else width // norm.shape[0]
        refuse_other_size("num_heads", given.num_heads, heads, where)
        num_latents = state["pos_embed"].shape[1] * patch_size**2
        refuse_other_size("num_tokens", given.num_tokens, num_latents, where)
        return SiTConfig(
            width=width,
            depth=block_count(state),
            heads=heads,
            mlp_ratio=_ratio(state["blocks.0.mlp.fc1.weight"].shape[0], width),
            grid=self.grid,
            patch_size=patch_size,
            qk_norm=norm is not None,
            num_classes=table.shape[0] - 1,
            num_latents=num_latents,
            latent_width=latent_width,
        )


def _ratio(hidden: int, width: int) -> float:
    """The number whose product with the width, cut to a whole number, is `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


SIT_SEQUENCE = SiTRelease("SiT generator on a sequence of latents", "x_embedder.weight", grid=False)
SIT_GRID = SiTRelease("SiT generator on a grid of latents", "x_embedder.proj.weight", grid=True)
