"""LlamaGen's class-conditional GPT (arXiv 2406.06525): a dict with `model` (and `args` while training), or the tensors.

Its sizes are read off the tensors; the number of heads and of tokens is not among them.
"""

from argparse import Namespace
from collections.abc import Collection
from typing import Any

from ..checkpoints.checkpoint import Checkpoint, State
from ..core.errors import UserError
from ..model_configs import LlamaGenConfig
from .layout import Given, PublishedFile, described, under_both_names
from .sources import WeightsSource
from .tensors import attention_heads, block_count, refuse_other_size, require

HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 3200: 32}  # by width: GPT-B, L, XL, XXL, 3B
CLASSES = "cls_embedding.embedding_table.weight"
QKV = "layers.0.attention.wqkv.weight"
MLP = "layers.0.feed_forward.w1.weight"


class LlamaGenGPT:
    """Our names are the published ones, so tensors are taken as they are."""

    name = "LlamaGen GPT"
    marks = (CLASSES, QKV)
    source = WeightsSource(
        name="LlamaGen GPT",
        files=("c2i_B_256.pt", "c2i_L_256.pt", "c2i_B_384.pt", "c2i_L_384.pt", "c2i_XL_384.pt", "c2i_XXL_384.pt"),
        repository="FoundationVision/LlamaGen",
        licence="MIT",
        weights="only",
    )

    def recognises(self, keys: Collection[str]) -> bool:
        """A text-conditional one has no table of classes."""
        return all(mark in keys for mark in self.marks)

    def read(self, file: PublishedFile, given: Given) -> Checkpoint:
        """Raises: UserError for missing tensors, and for numbers of heads or tokens that are missing or do not fit."""
        config = self._config(file.state, given, _tokens(file, given), str(file.path))
        return Checkpoint(file.path, described(self), config, under_both_names(file.weights))

    def holds(self, config: LlamaGenConfig) -> bool:
        return config.positions == "grid" and config.rows is None

    def write(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The averaged weights as `model`."""
        return {"model": {key: tensor.clone() for key, tensor in checkpoint.choose("ema").items()}}

    def _config(self, state: State, given: Given, num_tokens: int, where: str) -> LlamaGenConfig:
        require(state, (CLASSES, QKV, MLP, "output.weight"), where, described(self))
        codes, width = state["output.weight"].shape
        heads = attention_heads(width, given.num_heads, where, HEADS)
        kv_heads, rest = divmod(state[QKV].shape[0] - width, 2 * width // heads)
        if rest or kv_heads < 1 or heads % kv_heads or width // heads % 4:
            raise UserError(f"{where}: {QKV} has {state[QKV].shape[0]} rows, which do not fit num_heads = {heads}")
        return LlamaGenConfig(
            width=width,
            depth=block_count(state, blocks="layers"),
            heads=heads,
            kv_heads=None if kv_heads == heads else kv_heads,
            mlp_width=state[MLP].shape[0],
            codebook_size=codes,
            num_classes=state[CLASSES].shape[0] - 1,  # the last row is the null class
            num_tokens=num_tokens,
        )


def _tokens(file: PublishedFile, given: Given) -> int:
    """Tokens an image: as the settings of a training checkpoint, the caller or the tokenizer say."""
    args = file.content.get("args")
    settings = vars(args) if isinstance(args, Namespace) else {}
    if {"image_size", "downsample_size"} <= settings.keys():
        found = (settings["image_size"] // settings["downsample_size"]) ** 2
        refuse_other_size("num_tokens", given.num_tokens, found, str(file.path))
        return found
    if given.num_tokens is None and given.tokenizer_tokens is None:
        raise UserError(
            f"{file.path}: the file does not store how many tokens an image has: give num_tokens (LlamaGen's own: 256 "
            "at 256 pixels, 576 at 384)"
        )
    return given.num_tokens or given.tokenizer_tokens


LLAMAGEN_GPT = LlamaGenGPT()
